// Package cgroup finds the control groups of this process, in both versions
// (cgroups(7)). It knows no file in them: what they limit is its callers'.
package cgroup

import (
	"os"
	"path/filepath"
	"strings"
)

// Group is one control group as a directory.
type Group struct {
	Dir string
	V2  bool // else it is of a v1 hierarchy, whose files have other names
}

// Own lists the groups of this process that may hold a controller ("cpu",
// "pids", "memory"): its own first, then those above it, as far as they are
// mounted here; v2's, and those of the controller's v1 hierarchy. root is where
// /proc and /sys are: "/", but in tests. None where they can't be read.
func Own(root, controller string) []Group {
	mounts, err := os.ReadFile(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return nil
	}
	own, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return nil
	}
	var found []Group
	for line := range strings.Lines(string(own)) {
		// hierarchy:controllers:path, 0::path for v2
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		v2 := fields[0] == "0" && fields[1] == ""
		if !v2 && !hasWord(fields[1], controller) {
			continue
		}
		mount, top, ok := mountOf(string(mounts), controller, v2)
		if !ok {
			continue
		}
		for path := filepath.Join("/", below(top, fields[2])); ; path = filepath.Dir(path) {
			found = append(found, Group{Dir: filepath.Join(root, mount, path), V2: v2})
			if path == "/" {
				break
			}
		}
	}
	return found
}

// mountOf finds where a hierarchy is mounted, and which group is at its top:
// the fields of proc_pid_mountinfo(5) are id, parent, device, root, mount
// point, options, any tags, "-", type, source, super options.
func mountOf(mounts, controller string, v2 bool) (point, top string, ok bool) {
	for line := range strings.Lines(mounts) {
		before, after, _ := strings.Cut(line, " - ")
		mount, kind := strings.Fields(before), strings.Fields(after)
		if len(mount) < 5 || len(kind) < 3 {
			continue
		}
		if v2 && kind[0] == "cgroup2" || !v2 && kind[0] == "cgroup" && hasWord(kind[2], controller) {
			return unescape(mount[4]), unescape(mount[3]), true
		}
	}
	return "", "", false
}

// below is group's path under a mount whose top is another group: a container
// sees its own as the top. A group outside of the mount counts as the top.
func below(top, group string) string {
	rest, err := filepath.Rel(top, group)
	if err != nil || rest == ".." || strings.HasPrefix(rest, "../") {
		return "/"
	}
	return rest
}

func hasWord(list, word string) bool {
	for entry := range strings.SplitSeq(list, ",") {
		if entry == word {
			return true
		}
	}
	return false
}

// unescape undoes mountinfo's octal escapes of blanks and backslashes.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}
