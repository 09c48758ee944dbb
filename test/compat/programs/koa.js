const Koa = require('koa')

const app = new Koa()
app.use((context) => {
  context.body = `${process.pid} says hello\n`
})
app.listen(process.env.PORT)
