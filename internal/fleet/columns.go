package fleet

import (
	"strconv"

	"github.com/forkd/forkd/internal/control"
)

// row is a line of the columns: a worker, or a slot that has none.
type row struct {
	slot   control.Slot
	worker *control.Worker // nil: none
}

// rows returns the workers of slots in their order, and a line for each slot
// without one.
func rows(slots []control.Slot) []row {
	list := make([]row, 0, len(slots))
	for _, s := range slots {
		if len(s.Workers) == 0 {
			list = append(list, row{slot: s})
		}
		for i := range s.Workers {
			list = append(list, row{s, &s.Workers[i]})
		}
	}
	return list
}

// appendColumns appends the workers of slots as a JSON object of equally long
// lists; what is not known is null. The objects of a list of workers would say each
// name 64 times.
func appendColumns(b []byte, slots []control.Slot) []byte {
	list := rows(slots)
	column := func(name string, value func(b []byte, r row) []byte) {
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, name...)
		b = append(b, `":[`...)
		for i, r := range list {
			if i > 0 {
				b = append(b, ',')
			}
			b = value(b, r)
		}
		b = append(b, ']')
	}
	figure := func(name string, of func(*control.Worker) *int64) {
		column(name, func(b []byte, r row) []byte {
			if r.worker == nil {
				return append(b, "null"...)
			}
			return appendFigure(b, of(r.worker))
		})
	}
	b = append(b, '{')
	column("slot", func(b []byte, r row) []byte { return strconv.AppendInt(b, int64(r.slot.Slot), 10) })
	figure("pid", func(w *control.Worker) *int64 { return new(int64(w.PID)) })
	figure("generation", func(w *control.Worker) *int64 { return new(int64(w.Generation)) })
	column("state", func(b []byte, r row) []byte {
		if r.worker != nil {
			return strconv.AppendQuote(b, r.worker.State)
		}
		return strconv.AppendQuote(b, r.slot.State)
	})
	figure("connections", func(w *control.Worker) *int64 { return w.Connections })
	figure("accepted", func(w *control.Worker) *int64 { return w.Accepted })
	figure("requests", func(w *control.Worker) *int64 { return w.Requests })
	figure("queue", func(w *control.Worker) *int64 { return w.Queue })
	column("cpu_percent", func(b []byte, r row) []byte {
		if r.worker == nil || r.worker.CPUPercent == nil {
			return append(b, "null"...)
		}
		return appendPercent(b, *r.worker.CPUPercent)
	})
	figure("rss_bytes", func(w *control.Worker) *int64 { return w.RSSBytes })
	column("restarts", func(b []byte, r row) []byte { return strconv.AppendInt(b, int64(r.slot.Restarts), 10) })
	return append(b, '}')
}

func appendFigure(b []byte, n *int64) []byte {
	if n == nil {
		return append(b, "null"...)
	}
	return strconv.AppendInt(b, *n, 10)
}

// appendPercent appends a figure with one digit after the point, if it needs it.
func appendPercent(b []byte, f float64) []byte {
	b = strconv.AppendFloat(b, f, 'f', 1, 64)
	if n := len(b); b[n-1] == '0' {
		b = b[:n-2]
	}
	return b
}
