package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/forkd/forkd/internal/control"
)

// appStatus is what is known of one app.
type appStatus struct {
	at      control.Location
	title   string // its name, or its path where two have one name
	app     control.App
	foreign bool   // of another user than this one, who is not root
	err     error  // it did not answer
	late    bool   // it has not answered yet
	stopped string // it has no master: how that ended
}

// The bounds of a query of many apps: some may be another user's, slow or large.
const (
	queryTimeout  = 10 * time.Second
	parallelQuery = 256 // with two descriptors each
	parallelRead  = 16  // of answers of a few megabytes, at most
)

// lateAfter is how long an app that does not answer is waited for without a word.
const lateAfter = 800 * time.Millisecond

// survey is a query under way.
type survey struct {
	apps    []appStatus
	there   control.Survey // if all were asked
	all     bool           // no name was given
	answers chan answer
	end     context.CancelFunc
}

type answer struct {
	app    int // its index
	status appStatus
}

// ask asks the named app, or all apps for "". The error says that the name is no good; an
// app that does not answer has its own. The caller calls end.
func ask(ctx context.Context, name string) (*survey, error) {
	s := &survey{all: name == ""}
	var found []control.Location
	if s.all {
		s.there = control.Look()
		found = s.there.Live
	} else {
		at, err := findApp(name)
		if err != nil {
			return nil, err
		}
		found = []control.Location{at}
	}
	ctx, s.end = context.WithTimeout(ctx, queryTimeout)
	s.answers = make(chan answer, len(found))
	room, reading := make(chan struct{}, parallelQuery), make(chan struct{}, parallelRead)
	named := map[string]int{}
	for _, at := range found {
		named[at.Name]++
	}
	for i, at := range found {
		title := at.Name
		if named[at.Name] > 1 {
			title = at.Path()
		}
		s.apps = append(s.apps, appStatus{at: at, title: title, late: true, err: &control.NoAnswerError{App: at.Name, Why: fmt.Sprintf("nothing within %v", lateAfter)}})
		go func() {
			room <- struct{}{}
			s.answers <- answer{i, queryApp(ctx, at, reading)}
			<-room
		}()
	}
	return s, nil
}

// wait waits until all have answered, or for so long. It returns what has come meanwhile. An
// app that has ended is none, if all were asked.
func (s *survey) wait(d time.Duration) (news []appStatus) {
	enough := time.NewTimer(d)
	defer enough.Stop()
	var came []int
	for waiting := true; waiting && len(s.late()) > 0; {
		select {
		case a := <-s.answers:
			a.status.title = s.apps[a.app].title
			s.apps[a.app] = a.status
			came = append(came, a.app)
		case <-enough.C:
			waiting = false
		}
	}
	slices.Sort(came)
	for _, i := range came {
		if !s.all || !is[*control.NoAppError](s.apps[i].err) {
			news = append(news, s.apps[i])
		}
	}
	return news
}

// late are the names of those that have not answered yet.
func (s *survey) late() (names []string) {
	for i := range s.apps {
		if s.apps[i].late {
			names = append(names, s.apps[i].at.Name)
		}
	}
	return names
}

// query asks the named app, or all apps for "", and waits for their answers.
func query(ctx context.Context, name string) ([]appStatus, error) {
	s, err := ask(ctx, name)
	if err != nil {
		return nil, err
	}
	defer s.end()
	return s.wait(queryTimeout), nil
}

// glance is query for a picture that is drawn again soon: an app that is late has an error.
func glance(ctx context.Context, name string) ([]appStatus, control.Survey, error) {
	s, err := ask(ctx, name)
	if err != nil {
		return nil, control.Survey{}, err
	}
	defer s.end()
	s.wait(lateAfter)
	return slices.DeleteFunc(s.apps, func(a appStatus) bool { return s.all && is[*control.NoAppError](a.err) }), s.there, nil
}

func queryApp(ctx context.Context, at control.Location, reading chan struct{}) appStatus {
	client, err := control.Connect(at)
	if err != nil {
		return appStatus{at: at, err: err}
	}
	defer client.Close()
	client.ReadIn(reading)
	app, err := client.Status(ctx)
	return appStatus{at: at, app: app, foreign: client.Foreign(), err: err}
}

func firstError(apps []appStatus) error {
	for _, s := range apps {
		if s.err != nil {
			return s.err
		}
	}
	return nil
}
