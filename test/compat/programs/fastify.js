const server = require('fastify')()

server.get('/', async () => `${process.pid} says hello\n`)
server.listen({ port: process.env.PORT })
