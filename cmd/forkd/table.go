package main

import (
	"fmt"
	"strings"
)

// column is one column of a table with rows of type T.
type column[T any] struct {
	title string
	align align
	cell  func(row T) string
	style func(cell string) style // nil: plain
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

// stateColumn is the column of states, in their colours.
func stateColumn[T any](cell func(T) string) column[T] {
	return column[T]{title: "STATE", align: left, cell: cell, style: stateStyle}
}

// drawTable draws the titles and the rows, each column as wide as its widest cell.
// Where that is wider than the screen, the first column is cut. notes are lines
// below a row.
func drawTable[T any](s screen, columns []column[T], rows []T, notes func(row T, indent string) []string) []string {
	const gap, least = "  ", 8 // least: columns of the screen
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

// pad fills text up to width.
func pad(text string, width int, a align) string {
	if a == right {
		return fmt.Sprintf("%*s", width, text)
	}
	return fmt.Sprintf("%-*s", width, text)
}
