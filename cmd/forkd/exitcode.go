package main

import (
	"errors"
	"fmt"

	"github.com/forkd/forkd/internal/config"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/supervisor"
)

// The exit codes of docs/contract.md, Command line.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2
	exitNoApp    = 3
	exitNoAnswer = 4
)

// exit is an error with an exit code. Without a text nothing is printed.
type exit struct {
	code int
	text string
}

func (e *exit) Error() string { return e.text }

func usage(format string, args ...any) error {
	return &exit{exitUsage, fmt.Sprintf(format, args...)}
}

// exitCode is the exit code of a command that returns err, and the line for stderr.
func exitCode(err error) (code int, text string) {
	if err == nil {
		return exitDone, ""
	}
	code = exitFailed
	switch e, ok := errors.AsType[*exit](err); {
	case ok:
		code = e.code
	case is[*config.Error](err), is[*supervisor.UsageError](err):
		code = exitUsage
	case is[*control.NoAppError](err):
		code = exitNoApp
	case is[*control.NoAnswerError](err):
		code = exitNoAnswer
	}
	return code, err.Error()
}

func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}
