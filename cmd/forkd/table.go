package main

import (
	"fmt"
	"slices"
	"strings"
)

// column is one column of a table with rows of type T.
type column[T any] struct {
	title string
	align align
	cell  func(row T) string
	style func(cell string) style // nil: plain
	drop  int                     // of those that do not fit, the highest is left out first; 0: stays
}

type align bool

const (
	left  align = false
	right align = true
)

// textColumn is a column that is aligned to the left.
func textColumn[T any](title string, cell func(T) string) column[T] {
	return column[T]{title: title, align: left, cell: cell}
}

// figureColumn is a column that is aligned to the right.
func figureColumn[T any](title string, cell func(T) string) column[T] {
	return column[T]{title: title, align: right, cell: cell}
}

// dropped gives a column its place in the order of those that are left out.
func (c column[T]) dropped(drop int) column[T] {
	c.drop = drop
	return c
}

// stateColumn is the column of states, in their colours.
func stateColumn[T any](cell func(T) string) column[T] {
	return column[T]{title: "STATE", align: left, cell: cell, style: stateStyle}
}

// drawTable draws the titles and the rows, each column as wide as its widest cell.
// Where that is wider than the screen, columns are left out, then the first is cut.
// notes are lines below a row.
func drawTable[T any](s screen, columns []column[T], rows []T, notes func(row T, indent string) []string) []string {
	const gap, least = "  ", 8 // least: columns of the screen
	columns = fitting(s, columns, rows, len(gap))
	grid := make([][]string, 1+len(rows))
	widths := make([]int, len(columns))
	total := len(gap) * (len(columns) - 1)
	for k, c := range columns {
		grid[0] = append(grid[0], c.title)
		for i, row := range rows {
			grid[i+1] = append(grid[i+1], c.cell(row))
		}
		for _, cells := range grid {
			widths[k] = max(widths[k], columnsOf(cells[k]))
		}
		total += widths[k]
	}
	if s.width > 0 && total > s.width {
		widths[0] = min(widths[0], max(least, widths[0]-(total-s.width)))
	}
	var lines []string
	for i, cells := range grid {
		for k, c := range columns {
			cell := screen{width: widths[k]}.cut(cells[k])
			cells[k] = pad(cell, widths[k], c.align)
			if i > 0 && c.style != nil {
				cells[k] = s.paint(c.style(cell), cells[k])
			}
		}
		line := strings.TrimRight(strings.Join(cells, gap), " ")
		if i == 0 {
			lines = append(lines, s.paint(bold, line))
			continue
		}
		lines = append(lines, line)
		lines = append(lines, notes(rows[i-1], strings.Repeat(" ", widths[0])+gap)...)
	}
	return lines
}

// fitting leaves out columns until the rest fits the screen, with a gap between them.
func fitting[T any](s screen, columns []column[T], rows []T, gap int) []column[T] {
	total := -gap
	widths := make([]int, len(columns))
	for k, c := range columns {
		widths[k] = columnsOf(c.title)
		for _, row := range rows {
			widths[k] = max(widths[k], columnsOf(c.cell(row)))
		}
		total += widths[k] + gap
	}
	columns = slices.Clone(columns)
	for s.width > 0 && total > s.width {
		worst := 0
		for k := range columns {
			if columns[k].drop > columns[worst].drop {
				worst = k
			}
		}
		if columns[worst].drop == 0 {
			break
		}
		total -= widths[worst] + gap
		columns, widths = slices.Delete(columns, worst, worst+1), slices.Delete(widths, worst, worst+1)
	}
	return columns
}

// pad fills text up to width.
func pad(text string, width int, a align) string {
	if a == right {
		return fmt.Sprintf("%*s", width, text)
	}
	return fmt.Sprintf("%-*s", width, text)
}
