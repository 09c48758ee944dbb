// What `nest build` makes of a new project, in one file and without decorators' syntax.
require('reflect-metadata')
const { Controller, Get, Module } = require('@nestjs/common')
const { NestFactory } = require('@nestjs/core')

class AppController {
  hello() {
    return `${process.pid} says hello\n`
  }
}
Controller()(AppController)
Get()(AppController.prototype, 'hello', Object.getOwnPropertyDescriptor(AppController.prototype, 'hello'))

class AppModule {}
Module({ controllers: [AppController] })(AppModule)

async function bootstrap() {
  const app = await NestFactory.create(AppModule, { logger: false })
  await app.listen(process.env.PORT)
}
bootstrap()
