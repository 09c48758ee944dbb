// A server of Node alone. Its answer begins with the pid of the worker that gave it.
//
//     PORT=8000 forkd run -- node server.js

const http = require('node:http')

http.createServer((request, response) => {
  response.end(`${process.pid} says hello\n`)
}).listen(process.env.PORT || 8000)
