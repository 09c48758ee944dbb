// A boot of 3 s for whatever node runs, but for npm itself.
if (!/npm(-cli\.js)?$/.test(process.argv[1])) {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3000)
}
