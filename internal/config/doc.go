// Package config turns a TOML file and the command line's flags into a
// supervisor.Config: every default filled in, every name looked up, every
// relative path resolved.
//
// The invariant: what Load returns can be run as it stands, and nothing that
// was written has been ignored. A key that is unknown, misspelt, badly valued
// or not built yet is an *Error that says where it is and what is valid there.
// A flag and a key of the file go through the same setter, so they accept the
// same values and fail in the same words.
//
// The package must not start anything, write anything or look for programs:
// whether the command exists is known when a worker is started.
package config
