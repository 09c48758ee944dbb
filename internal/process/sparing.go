package process

import (
	"slices"
	"time"
)

// ripe is how old figures must be for a sparing Usage to read them again.
const ripe = time.Second

// Sparing returns a Usage that reads a quarter of the processes at a time, those
// whose figures are the oldest, and of the others says what it read last: for who
// asks regularly, and pays for every look. A process that it has not seen yet is
// read at once.
func Sparing(u Usage) Usage { return &sparing{Usage: u, seen: map[int]Figures{}} }

type sparing struct {
	Usage
	seen map[int]Figures // of the processes of the last Sample
}

// Sample implements Usage.
func (s *sparing) Sample(pids []int) map[int]Figures {
	oldest := slices.Clone(pids)
	slices.SortStableFunc(oldest, func(a, b int) int { return s.seen[a].At.Compare(s.seen[b].At) })
	due := oldest[:s.due(oldest, time.Now())]
	figures := s.Usage.Sample(due)
	for _, pid := range oldest[len(due):] {
		figures[pid] = s.seen[pid]
	}
	s.seen = figures
	return figures
}

// due is how many of the processes, the oldest figures first, are to be read.
func (s *sparing) due(oldest []int, now time.Time) (n int) {
	quarter := (len(oldest) + 3) / 4
	for n < len(oldest) {
		at := s.seen[oldest[n]].At
		if !at.IsZero() && (n >= quarter || now.Sub(at) < ripe) {
			break
		}
		n++
	}
	return n
}
