package config

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"

	"github.com/forkd/forkd/supervisor"
)

// finishUser looks up whom the workers run as. Only root can be another.
func (d *draft) finishUser() {
	userAt, someUser := d.given("user")
	groupAt, someGroup := d.given("group")
	someUser = someUser && d.user != ""
	someGroup = someGroup && d.group != ""
	if !someUser && !someGroup {
		return
	}
	who, err := d.lookupUser(someUser, someGroup)
	if err != nil {
		d.report(userAt, err)
		return
	}
	if someGroup {
		gid, err := lookupGroup(d.group)
		if err != nil {
			d.report(groupAt, err)
			return
		}
		who.joinAs(gid)
	}
	if d.host.uid != 0 {
		if int(who.UID) != d.host.uid || int(who.GID) != d.host.gid {
			at := userAt
			if !someUser {
				at = groupAt
			}
			d.report(at, errors.New("only root can run workers as somebody else: start forkd as root, or leave user and group out"))
		}
		return // the master's own
	}
	d.config.User = &who.User
}

// finishControl looks up who else may use the control socket.
func (d *draft) finishControl() {
	at, given := d.given("control.group")
	if !given || d.controlGroup == "" {
		return
	}
	gid, err := lookupGroup(d.controlGroup)
	if err != nil {
		d.report(at, err)
		return
	}
	d.config.ControlGroup = int(gid)
}

// account is a user on the way into the Config.
type account struct{ supervisor.User }

// joinAs makes gid the primary group, in place of the user's own.
func (a *account) joinAs(gid uint32) {
	groups := []uint32{gid}
	for _, g := range a.Groups {
		if g != gid && g != a.GID {
			groups = append(groups, g)
		}
	}
	a.GID, a.Groups = gid, groups
}

// lookupUser finds the user by name or number. A number that nobody has is
// good where a group is given with it, as in a container without passwd.
func (d *draft) lookupUser(some, withGroup bool) (*account, error) {
	name := d.user
	if !some {
		name = strconv.Itoa(d.host.uid)
	}
	found, err := user.Lookup(name)
	number, numeric := parseID(name)
	if err != nil && numeric {
		found, err = user.LookupId(name)
	}
	if err != nil && numeric {
		if !withGroup {
			return nil, fmt.Errorf("no user has the number %s: set group too, or use a name of /etc/passwd", name)
		}
		return &account{supervisor.User{Name: name, UID: number, Home: "/"}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("there is no user %q: use a name or a number of /etc/passwd (getent passwd lists them)", name)
	}
	uid, uidOK := parseID(found.Uid)
	gid, gidOK := parseID(found.Gid)
	if !uidOK || !gidOK {
		return nil, fmt.Errorf("user %q has no usable number: uid %q, gid %q", name, found.Uid, found.Gid)
	}
	who := &account{supervisor.User{Name: found.Username, UID: uid, GID: gid, Home: found.HomeDir}}
	groups, err := found.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("cannot look up the groups of user %q: %w", name, err)
	}
	for _, text := range groups {
		if g, ok := parseID(text); ok {
			who.Groups = append(who.Groups, g)
		}
	}
	return who, nil
}

func lookupGroup(name string) (uint32, error) {
	found, err := user.LookupGroup(name)
	if err == nil {
		name = found.Gid
	}
	if gid, ok := parseID(name); ok {
		return gid, nil
	}
	return 0, fmt.Errorf("there is no group %q: use a name of /etc/group (getent group lists them) or a number", name)
}

// parseID reads a uid or gid. The highest number means "unchanged" to
// setresuid(2), and is nobody's.
func parseID(text string) (uint32, bool) {
	id, err := strconv.ParseUint(text, 10, 32)
	return uint32(id), err == nil && id != 1<<32-1
}
