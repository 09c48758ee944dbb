// Package config turns a TOML file and the command line's flags into a
// supervisor.Config: every default filled in, every name looked up, every
// relative path resolved.
//
// Invariant: the Config that Load returns can be run, and no setting has been
// ignored. A key that is unknown, misspelt, badly valued or not built yet is an
// *Error with its position and the valid values. A flag and a key of the file share
// one setter: they accept the same values and have the same errors.
//
// The package must not start anything, write anything or look for programs: the
// command is looked for when a worker is started.
package config
