//go:build !amd64

package process

// The calls that other platforms do not have: numbers of none.
const (
	sysEpollWait = -2 - iota
	sysPoll
	sysSelect
)
