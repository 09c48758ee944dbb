// Package cgroup finds the control groups of this process, of v1 and v2 (cgroups(7)).
// Their files are read by its callers.
package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Group is one control group as a directory.
type Group struct {
	Dir string
	V2  bool // false: of a v1 hierarchy, whose files have other names
}

// Own lists the groups of this process that may have a controller ("cpu", "pids",
// "memory"), of v2 and of the controller's v1 hierarchy: its own, then those above, as
// far as they are mounted. root has /proc and /sys: "/", except in tests. None if they
// can't be read.
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

// mountOf finds the mount point of a hierarchy and the group mounted there. The fields of
// proc_pid_mountinfo(5) are id, parent, device, root, mount point, options, any tags, "-",
// type, source, super options.
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

// below is group's path relative to the mounted group top, which in a container is the
// container's own. A group outside of the mount counts as the top.
func below(top, group string) string {
	rest, err := filepath.Rel(top, group)
	if err != nil || rest == ".." || strings.HasPrefix(rest, "../") {
		return "/"
	}
	return rest
}

func hasWord(list, word string) bool { return slices.Contains(strings.Split(list, ","), word) }

// unescape decodes mountinfo's octal escapes.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}
