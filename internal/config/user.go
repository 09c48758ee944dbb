package config

import (
	"cmp"
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strconv"

	"github.com/forkd/forkd/supervisor"
)

// finishUser looks up the user of the workers. Only root can have them run as another.
func (d *draft) finishUser() {
	if d.user == "" && d.group == "" {
		return
	}
	who, err := d.lookupUser()
	if err != nil {
		d.report(d.origins["user"], err)
		return
	}
	if d.group != "" {
		gid, err := lookupGroup(d.group)
		if err != nil {
			d.report(d.origins["group"], err)
			return
		}
		others := slices.DeleteFunc(who.Groups, func(g uint32) bool { return g == gid || g == who.GID })
		who.GID, who.Groups = gid, append([]uint32{gid}, others...)
	}
	switch {
	case d.host.uid == 0:
		d.config.User = who
	case int(who.UID) != d.host.uid || int(who.GID) != d.host.gid:
		d.report(d.origin("user", "group"), errors.New("only root can run workers as somebody else: start forkd as root, or leave user and group out"))
	}
}

func (d *draft) readControlGroup(v value) (int, error) {
	var err error
	if d.controlGroup, err = v.textOrNumber(); err != nil || d.controlGroup == "" {
		return -1, err
	}
	gid, err := lookupGroup(d.controlGroup)
	return int(gid), err
}

// lookupUser finds the user by name or number. An unknown number is valid with a
// group, as in a container without passwd.
func (d *draft) lookupUser() (*supervisor.User, error) {
	name := cmp.Or(d.user, strconv.Itoa(d.host.uid))
	number, numeric := parseID(name)
	found, err := user.Lookup(name)
	if err != nil && numeric {
		found, err = user.LookupId(name)
	}
	switch {
	case err != nil && !numeric:
		return nil, fmt.Errorf("there is no user %q: use a name or a number of /etc/passwd (getent passwd lists them)", name)
	case err != nil && d.group == "":
		return nil, fmt.Errorf("no user has the number %s: set group too, or use a name of /etc/passwd", name)
	case err != nil:
		return &supervisor.User{Name: name, UID: number, Home: "/"}, nil
	}
	groups, err := found.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("cannot look up the groups of user %q: %w", name, err)
	}
	var ids []uint32
	for i, text := range append([]string{found.Uid, found.Gid}, groups...) {
		id, ok := parseID(text)
		if !ok && i < 2 {
			return nil, fmt.Errorf("user %q has no usable number: uid %q, gid %q", name, found.Uid, found.Gid)
		}
		if ok {
			ids = append(ids, id)
		}
	}
	return &supervisor.User{Name: found.Username, UID: ids[0], GID: ids[1], Groups: ids[2:], Home: found.HomeDir}, nil
}

func lookupGroup(name string) (uint32, error) {
	text := name
	if found, err := user.LookupGroup(name); err == nil {
		text = found.Gid
	}
	if gid, ok := parseID(text); ok {
		return gid, nil
	}
	return 0, fmt.Errorf("there is no group %q: use a name of /etc/group (getent group lists them) or a number", name)
}

// parseID reads a uid or gid. The highest number means "unchanged" to setresuid(2).
func parseID(text string) (uint32, bool) {
	id, err := strconv.ParseUint(text, 10, 32)
	return uint32(id), err == nil && id != 1<<32-1
}
