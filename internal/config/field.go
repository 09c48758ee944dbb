package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// The makers of fields. A setter checks the value and stores it; what needs
// several settings at once is left to draft.finish.

// path is a file, relative to where the key was written.
func path(key string, into func(*draft) *string) field {
	return field{
		set: func(d *draft, v value) (err error) {
			*into(d), err = v.string()
			return err
		},
		show: func(d *draft) string {
			if *into(d) == "" {
				return ""
			}
			return d.absolute(*into(d), d.at[key])
		},
	}
}

// identity is a name or a number of a user or group.
func identity(into func(*draft) *string) field {
	return field{
		set: func(d *draft, v value) (err error) {
			if v.kind == integer {
				v.kind = text
			}
			*into(d), err = v.string()
			return err
		},
		show: func(d *draft) string { return *into(d) },
	}
}

// word is text that is on one line and shown as it is.
func word(into func(*draft) *string) field {
	return field{
		set: func(d *draft, v value) error {
			set, err := v.string()
			switch {
			case err != nil:
				return err
			case strings.ContainsFunc(set, unicode.IsControl):
				return errors.New("must not hold a control character")
			}
			*into(d) = set
			return nil
		},
		show: func(d *draft) string { return *into(d) },
	}
}

func yesNo(into func(*draft) *bool) field {
	return field{
		set: func(d *draft, v value) (err error) {
			*into(d), err = v.boolean()
			return err
		},
		show: func(d *draft) string { return strconv.FormatBool(*into(d)) },
	}
}

// count is how many connections; 0 is for none said.
func count(into func(*draft) *int64) field {
	return field{
		set: func(d *draft, v value) error {
			set, err := v.whole(0, math.MaxInt32)
			*into(d) = int64(set)
			return err
		},
		show: func(d *draft) string { return strconv.FormatInt(*into(d), 10) },
	}
}

func duration(least time.Duration, into func(*draft) *time.Duration) field {
	return field{
		set: func(d *draft, v value) error {
			set, err := v.duration(least)
			if err == nil {
				*into(d) = set
			}
			return err
		},
		show: func(d *draft) string { return brief(*into(d)) },
	}
}

// brief is a duration as a person writes it: "1m", not "1m0s".
func brief(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func whole(most int, into func(*draft) *int) field {
	return field{
		set: func(d *draft, v value) error {
			set, err := v.whole(0, most)
			if err == nil {
				*into(d) = set
			}
			return err
		},
		show: func(d *draft) string { return strconv.Itoa(*into(d)) },
	}
}

// exitCodes is a list of exit codes, 0 to 255.
func exitCodes(into func(*draft) *[]int) field {
	return field{
		set: func(d *draft, v value) error {
			if v.kind != list {
				return fmt.Errorf("must be a list of exit codes, not %s: write [78]", v)
			}
			codes := make([]int, len(v.items))
			for i, item := range v.items {
				code, err := item.whole(0, 255)
				if err != nil {
					return item.at.wrap(err)
				}
				codes[i] = code
			}
			*into(d) = codes
			return nil
		},
		show: func(d *draft) string {
			words := make([]string, len(*into(d)))
			for i, code := range *into(d) {
				words[i] = strconv.Itoa(code)
			}
			return strings.Join(words, " ")
		},
	}
}

// choice is one of the words in built; those in later are promised, and refused.
func choice[T ~string](into func(*draft) *T, built []T, later ...string) field {
	return field{
		set: func(d *draft, v value) error {
			words := make([]string, len(built))
			for i, word := range built {
				words[i] = string(word)
			}
			set, err := v.choice(words, later)
			if err == nil {
				*into(d) = T(set)
			}
			return err
		},
		show: func(d *draft) string { return string(*into(d)) },
	}
}
