package main

import "strings"

// column is one column of a table.
type column struct {
	title  string
	figure bool // aligned to the right
}

// stateTitle is the title of the column whose cells are painted by what they say.
const stateTitle = "STATE"

// row is one line of a table, and what is said below it.
type row struct {
	cells  []string
	remark string   // cut to the screen
	notes  []string // folded, each on lines of its own
}

// grid draws rows below the titles of their columns, as wide as what is in them.
// Where that is wider than the screen, the first column gives way.
func (s screen) grid(columns []column, rows []row) []string {
	const gap, least = 2, 8 // columns of the screen
	widths := make([]int, len(columns))
	titles := row{cells: make([]string, len(columns))}
	for i, c := range columns {
		titles.cells[i] = c.title
	}
	whole := gap * (len(columns) - 1)
	for i := range columns {
		widths[i] = columnsOf(titles.cells[i])
		for _, r := range rows {
			widths[i] = max(widths[i], columnsOf(r.cells[i]))
		}
		whole += widths[i]
	}
	if s.width > 0 && whole > s.width {
		widths[0] = min(widths[0], max(least, widths[0]-(whole-s.width)))
	}
	lines := []string{s.paint(bold, s.line(columns, titles, widths))}
	for _, r := range rows {
		lines = append(lines, s.line(columns, r, widths))
		if r.remark != "" {
			lines = append(lines, s.paint(dim, s.cut(strings.Repeat(" ", widths[0]+gap)+clean(r.remark))))
		}
		for _, note := range r.notes {
			for _, line := range s.fold(clean(note)) {
				lines = append(lines, s.paint(yellow, line))
			}
		}
	}
	return lines
}

func (s screen) line(columns []column, r row, widths []int) string {
	cells := make([]string, len(r.cells))
	for i, cell := range r.cells {
		cell = screen{width: widths[i]}.cut(cell)
		cells[i] = pad(cell, widths[i], columns[i].figure)
		if columns[i].title == stateTitle && cell != stateTitle {
			cells[i] = s.paint(stateColor(cell), cells[i])
		}
	}
	return strings.TrimRight(strings.Join(cells, "  "), " ")
}
