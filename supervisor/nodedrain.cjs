// The drain of a node program that knows nothing of forkd, as worker/httpserve does it.
// NODE_OPTIONS has node load this file into a worker and all that it starts (preset node).
// It does nothing in a process that does not listen.
'use strict';

const { isMainThread } = require('worker_threads'); // signals are the main thread's
if (isMainThread && process.env.FORKD_STOP_SIGNAL) install();

function install() {
  const net = require('net');
  const { env } = process;
  const signal = 'SIG' + env.FORKD_STOP_SIGNAL;
  const timeout = 1000 * Number(env.FORKD_DRAIN_TIMEOUT); // ms until forkd kills
  const idle = 1000 * Number(env.FORKD_DRAIN_IDLE);
  const end = timeout - Math.min(250, timeout / 10); // ms until it ends by itself
  const page = env.FORKD_PAGE_FD;
  const servers = new Set();
  const sockets = new Set();
  const sessions = new Set(); // of HTTP/2
  const handles = new Set(); // that listen, which a cluster's primary takes from its servers
  let began = 0; // when the drain began
  let done = false;

  const listen = net.Server.prototype.listen;
  net.Server.prototype.listen = function (...args) {
    watch(this);
    return listen.apply(this, args);
  };

  function watch(server) {
    if (servers.has(server)) return;
    if (servers.size === 0 && !process.listeners(signal).includes(onSignal)) hear();
    servers.add(server);
    const keep = (set) => (one) => {
      set.add(one);
      one.once('close', () => set.delete(one));
    };
    const events = { connection: keep(sockets), secureConnection: keep(sockets), session: keep(sessions) };
    for (const event in events) server.on(event, events[event]);
    let listening;
    server.once('listening', () => handles.add(listening = server._handle));
    server.once('close', () => {
      servers.delete(server);
      handles.delete(listening);
      for (const event in events) server.removeListener(event, events[event]);
    });
  }

  function hear() {
    process.prependListener(signal, onSignal);
    if (!process.send) return;
    const emit = process.emit;
    process.emit = function (event, ...args) { // a listener would keep the program from ending
      if (event === 'message' && args[0] === 'shutdown' && !began) drain();
      return emit.call(this, event, ...args);
    };
  }

  // Whether no handler of the program's own decides when it ends.
  const alone = () => process.listenerCount(signal) === 1;

  function onSignal() {
    if (began && !done) return;
    if (!began && drain()) return;
    if (alone()) {
      process.removeListener(signal, onSignal);
      process.kill(process.pid, signal); // it ends by the signal, as without this file
    }
  }

  function drain() {
    const open = [...servers].filter((server) => server.listening);
    if (open.length === 0) return alone() && drainCluster();
    began = Date.now();
    let left = open.length;
    for (const server of open) {
      server.closeIdleConnections = () => {}; // which http.Server.close calls
      server.prependListener('request', (_, response) => makeLast(response));
      server.once('close', () => --left === 0 && finish());
    }
    for (const socket of sockets) if (socket._httpMessage) makeLast(socket._httpMessage);
    for (const session of sessions) session.close();
    process.nextTick(() => { // after the program's own handlers
      for (const server of open) {
        if (server.listening) server.close();
        server.close = (callback) => { // again: no error
          if (callback) servers.has(server) ? server.once('close', () => callback()) : process.nextTick(callback);
          return server;
        };
      }
    });
    closeIdle(stopping());
    return true;
  }

  // finish ends the program unless it does so itself: on its channel it may have heard of
  // the drain too, and pm2 gives such programs 1.6 s.
  function finish() {
    if (done) return;
    done = true;
    const own = require('cluster').isWorker ? 1 : 0; // listener of node's
    const grace = process.connected && process.listenerCount('message') > own ? 1600 : 0;
    const wait = began + Math.min(grace, end) - Date.now();
    const exit = () => alone() && process.exit();
    if (wait > 0) setTimeout(exit, wait);
    else exit();
  }

  // makeLast has a response close its connection.
  function makeLast(response) {
    if (response.headersSent) return;
    response.shouldKeepAlive = false;
    const writeHead = response.writeHead;
    response.writeHead = function (status, ...rest) {
      if (status !== 101 && this.hasHeader('connection')) this.setHeader('connection', 'close');
      return writeHead.call(this, status, ...rest);
    };
  }

  // closeIdle closes connections between two requests: after the idle time when the app
  // stops, else spread over the last tenth of the time. Upgraded ones have no parser.
  function closeIdle(stops) {
    const from = stops ? Math.min(idle, end) : end - timeout / 10;
    const every = Math.max(5, Math.min(100, timeout / 500));
    setInterval(() => {
      const now = Date.now() - began;
      if (now < from) return;
      const unused = [...sockets].filter((socket) => socket.parser && !socket._httpMessage && !socket.writableEnded);
      const turns = stops ? 1 : Math.max(1, Math.floor((end - now) / every));
      for (const socket of unused.slice(0, Math.ceil(unused.length / turns))) {
        socket.end();
        setTimeout(() => socket.destroy(), 500).unref(); // what the client has sent meanwhile is read: no reset
      }
      if (now >= end) finish();
    }, every).unref();
  }

  // stopping reads from the page of the worker, the leader of this session, whether the
  // whole app stops (ipc.Page).
  function stopping() {
    const fs = require('fs');
    try {
      const session = fs.readFileSync('/proc/self/stat', 'latin1').split(') ').pop().split(' ')[3];
      const path = `/proc/${session}/fd/${page}`;
      if (!fs.readlinkSync(path).startsWith('/memfd:forkd-page')) return false;
      const fd = fs.openSync(path, 'r');
      const word = Buffer.alloc(4);
      fs.readSync(fd, word, 0, 4, 328);
      fs.closeSync(fd);
      return word.some((byte) => byte !== 0);
    } catch {
      return false; // no page: channel = "none"
    }
  }

  // drainCluster has the workers of a cluster's primary drain, which accepts for them.
  function drainCluster() {
    const cluster = require('cluster');
    const workers = Object.values(cluster.workers || {});
    if (workers.length === 0) return false;
    began = Date.now();
    cluster.removeAllListeners('exit'); // where the program would start others
    cluster.removeAllListeners('disconnect');
    for (const handle of handles) handle.close();
    let left = workers.length;
    for (const worker of workers) worker.process.once('exit', () => --left === 0 && finish());
    setTimeout(() => { // what has been accepted is on its way to them
      for (const worker of workers) worker.process.kill(signal);
    }, Math.min(100, timeout / 10));
    return true;
  }
}
