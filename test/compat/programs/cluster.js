// What people write around Node's own cluster module: a worker that ends is replaced,
// HUP replaces one after the other, each when its successor listens.
const cluster = require('node:cluster')

cluster.setupPrimary({ exec: process.argv[2] })
cluster.on('exit', worker => worker.exitedAfterDisconnect || cluster.fork())
cluster.fork()
cluster.fork()
process.on('SIGHUP', async () => {
  for (const old of Object.values(cluster.workers)) {
    await new Promise(resolve => cluster.fork().once('listening', resolve))
    old.disconnect()
  }
})
