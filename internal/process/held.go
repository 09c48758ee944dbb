package process

import (
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/procfs"
)

// maxDescriptors is how many descriptors of a worker are looked at: 0.3 s of CPU.
const maxDescriptors = 1 << 18

// Held returns which of some sockets the processes of each leader's session have, by leader
// and in ascending order. The sockets are inodes in ascending order. A leader is absent if
// not all descriptors can be read (see CanSee), or there are more than 262,144. It takes 1
// to 2 µs for each descriptor.
func Held(leaders []int, sockets []uint32) map[int][]uint32 {
	held := make(map[int][]uint32, len(leaders))
	for leader, pids := range procfs.Sessions(leaders) {
		found, known := heldBy(pids, sockets, maxDescriptors)
		if known {
			held[leader] = found
		}
	}
	return held
}

// HeldOutside reports whether a process in none of the leaders' sessions has the socket, this
// one aside and as far as can be seen: su(1) and the like have theirs. It looks at the
// descriptors of all processes.
func HeldOutside(leaders []int, socket uint32) bool {
	for _, pid := range procfs.PIDs() {
		session, err := unix.Getsid(pid)
		if err != nil || pid == os.Getpid() || slices.Contains(leaders, session) || slices.Contains(leaders, pid) {
			continue
		}
		if found, _ := heldBy([]int{pid}, []uint32{socket}, maxDescriptors); len(found) > 0 {
			return true
		}
	}
	return false
}

// heldBy looks at so many descriptors at most.
func heldBy(pids []int, sockets []uint32, budget int) (found []uint32, known bool) {
	for _, pid := range pids {
		for inode, err := range procfs.SocketsOf(pid, &budget) {
			if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) { // it has ended
				return nil, false
			}
			if at, ours := slices.BinarySearch(sockets, uint32(inode)); ours {
				found = append(found, sockets[at])
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found), len(pids) > 0
}
