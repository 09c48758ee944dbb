// Package supervisor is the master: it starts workers on sockets that it holds,
// replaces what ends, rolls without losing a request, and says what it does.
//
// One goroutine, the loop, owns all state. What can reach it is in messages.go;
// loop.handle turns it into events for internal/pool, which decides, and
// executor.perform carries out the actions that come back. Whatever can block runs on
// a goroutine that ends by posting a message. The master never touches a connection.
package supervisor
