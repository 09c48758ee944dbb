package process

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// told is a Usage that remembers what it was asked for.
type told struct{ asked []int }

func (f *told) Sample(pids []int) map[int]Figures {
	f.asked = slices.Sorted(slices.Values(pids))
	figures := map[int]Figures{}
	for _, pid := range pids {
		if pid != 13 { // which is gone
			figures[pid] = Figures{At: time.Now(), RSS: uint64(pid)}
		}
	}
	return figures
}

func TestSparing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		under := &told{}
		usage := Sparing(under)
		pids := []int{1, 2, 3, 4, 5, 6, 7, 8}
		for _, c := range []struct {
			name  string
			after time.Duration
			pids  []int
			want  []int
			known int
		}{
			{"all are new", 0, pids, pids, 8},
			{"all are fresh", 0, pids, nil, 8},
			{"a quarter", 2 * time.Second, pids, []int{1, 2}, 8},
			{"the next quarter", 0, pids, []int{3, 4}, 8},
			{"the next but one", 0, pids, []int{5, 6}, 8},
			{"the last", 0, pids, []int{7, 8}, 8},
			{"nobody", 0, pids, nil, 8},
			{"a new one and one that is gone", 0, []int{1, 9, 13}, []int{9, 13}, 2},
			{"that one is looked for again", 0, []int{1, 9, 13}, []int{13}, 2},
		} {
			time.Sleep(c.after)
			figures := usage.Sample(c.pids)
			if !slices.Equal(under.asked, c.want) || len(figures) != c.known {
				t.Errorf("%s: read %v, want %v; knows %v", c.name, under.asked, c.want, figures)
			}
			for pid, f := range figures {
				if f.RSS != uint64(pid) {
					t.Errorf("%s: of %d it says %v", c.name, pid, f)
				}
			}
		}
	})
}
