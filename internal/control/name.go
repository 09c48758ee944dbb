package control

// MaxName is the most bytes of a name.
const MaxName = 48

// NameRule says what ValidName takes, for errors.
const NameRule = "a name has 1 to 48 letters, digits, dots, hyphens and underscores, and begins with a letter or digit"

// ValidName reports whether name may be an app's, or a listener's:
// [A-Za-z0-9][A-Za-z0-9._-]{0,47} (docs/contract.md, section "Words").
func ValidName(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return 0 < len(name) && len(name) <= MaxName
}
