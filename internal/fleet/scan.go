package fleet

import (
	"encoding/json"
	"fmt"
	"strings"
)

// What follows is JSON as such (RFC 8259), for the parser of columns.

// number is what JSON calls a number; another value is an error in words.
func (p *parser) number(row int) (string, error) {
	p.space()
	from := p.at
	digits := func() bool {
		start := p.at
		for p.at < len(p.text) && p.text[p.at]-'0' <= 9 {
			p.at++
		}
		return p.at > start
	}
	is := func(any string) bool {
		if p.at < len(p.text) && strings.IndexByte(any, p.text[p.at]) >= 0 {
			p.at++
			return true
		}
		return false
	}
	is("-")
	if is("0") {
		if digits() {
			p.at = from
			return "", p.malformed("a number without leading zeros")
		}
	} else if !digits() {
		p.at = from
		return "", p.another(row, "a number")
	}
	if is(".") && !digits() {
		return "", p.malformed("a digit")
	}
	if is("eE") {
		is("+-")
		if !digits() {
			return "", p.malformed("a digit")
		}
	}
	return p.text[from:p.at], nil
}

// str is a JSON string. Without escapes it is a part of the text.
func (p *parser) str() (string, error) {
	p.space()
	if p.at == len(p.text) || p.text[p.at] != '"' {
		return "", p.malformed("a string")
	}
	from := p.at
	escaped := false
	for p.at++; p.at < len(p.text); p.at++ {
		switch c := p.text[p.at]; {
		case c == '"':
			p.at++
			if !escaped {
				return p.text[from+1 : p.at-1], nil
			}
			var s string
			if err := json.Unmarshal([]byte(p.text[from:p.at]), &s); err != nil {
				p.at = from
				return "", p.malformed("a string")
			}
			return s, nil
		case c == '\\':
			escaped = true
			p.at++
		case c < ' ':
			return "", p.malformed("no control character in a string")
		}
	}
	p.at = min(p.at, len(p.text))
	return "", p.malformed("the end of a string")
}

// skip passes over any value.
func (p *parser) skip(depth int) error {
	if depth > mostDepth {
		return fmt.Errorf("nested deeper than %d", mostDepth)
	}
	p.space()
	if p.at == len(p.text) {
		return p.malformed("a value")
	}
	switch p.text[p.at] {
	case '"':
		_, err := p.str()
		return err
	case '[', '{':
		isObject := p.text[p.at] == '{'
		end := p.text[p.at] + 2 // ] is [ + 2, } is { + 2
		p.at++
		for n := 0; !p.take(end); n++ {
			if n > 0 && !p.take(',') {
				return p.malformed("a comma")
			}
			if isObject {
				if _, err := p.str(); err != nil {
					return err
				}
				if !p.take(':') {
					return p.malformed("a colon")
				}
			}
			if err := p.skip(depth + 1); err != nil {
				return err
			}
		}
		return nil
	}
	if p.word("null") || p.word("true") || p.word("false") {
		return nil
	}
	if _, err := p.number(0); err != nil {
		return p.malformed("a value")
	}
	return nil
}

func (p *parser) space() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

// take passes over a character if it is next.
func (p *parser) take(c byte) bool {
	p.space()
	if p.at < len(p.text) && p.text[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *parser) word(word string) bool {
	if strings.HasPrefix(p.text[p.at:], word) {
		p.at += len(word)
		return true
	}
	return false
}

func (p *parser) malformed(expected string) error {
	return fmt.Errorf("byte %d: %s is expected, there is %s", p.at, expected, short(p.text[p.at:]))
}
