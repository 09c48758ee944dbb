// Command hello is what the cost of forkd's commands is compared with.
package main

import "fmt"

func main() { fmt.Println("hello, world") }
