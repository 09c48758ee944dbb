// An Express application. Its answer begins with the pid of the worker that gave it.
//
//     npm install express
//     PORT=8000 forkd run -- node server.js

const express = require('express')

const app = express()
app.get('/', (request, response) => {
  response.send(`${process.pid} says hello\n`)
})
app.listen(process.env.PORT || 8000)
