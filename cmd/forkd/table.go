package main

import (
	"fmt"
	"slices"
	"strings"
)

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

func textColumn[T any](title string, cell func(T) string) column[T] {
	return column[T]{title: title, align: left, cell: cell}
}

func figureColumn[T any](title string, cell func(T) string) column[T] {
	return column[T]{title: title, align: right, cell: cell}
}

// dropped gives a column its place in the order of those that are left out.
func (c column[T]) dropped(drop int) column[T] {
	c.drop = drop
	return c
}

func stateColumn[T any](cell func(T) string) column[T] {
	return column[T]{title: "STATE", align: left, cell: cell, style: stateStyle}
}

// drawTable draws the titles and the rows, each column as wide as its widest cell.
// Where that is wider than the screen, columns are left out, then the first is cut.
// notes are lines below a row; nil: none.
func drawTable[T any](s screen, columns []column[T], rows []T, notes func(row T, indent string) []string) []string {
	const gap, least = "  ", 8 // least: columns of the screen
	type drawn struct {
		column[T]
		cells []string // the title first
		width int
	}
	grid, total := make([]drawn, len(columns)), -len(gap)
	for k, c := range columns {
		d := drawn{column: c, cells: []string{c.title}}
		for _, row := range rows {
			d.cells = append(d.cells, c.cell(row))
		}
		for _, cell := range d.cells {
			d.width = max(d.width, columnsOf(cell))
		}
		grid[k], total = d, total+d.width+len(gap)
	}
	for s.width > 0 && total > s.width {
		worst := 0
		for k := range grid {
			if grid[k].drop > grid[worst].drop {
				worst = k
			}
		}
		if grid[worst].drop == 0 {
			grid[0].width = min(grid[0].width, max(least, grid[0].width-(total-s.width)))
			break
		}
		total -= grid[worst].width + len(gap)
		grid = slices.Delete(grid, worst, worst+1)
	}
	var lines []string
	for i := range len(rows) + 1 {
		cells := make([]string, len(grid))
		for k, c := range grid {
			cell := screen{width: c.width}.cut(c.cells[i])
			cells[k] = pad(cell, c.width, c.align)
			if i > 0 && c.style != nil {
				cells[k] = s.paint(c.style(cell), cells[k])
			}
		}
		line := strings.TrimRight(strings.Join(cells, gap), " ")
		if i == 0 {
			line = s.paint(bold, line)
		}
		lines = append(lines, line)
		if i > 0 && notes != nil {
			lines = append(lines, notes(rows[i-1], strings.Repeat(" ", grid[0].width)+gap)...)
		}
	}
	return lines
}

func pad(text string, width int, a align) string {
	if a == right {
		return fmt.Sprintf("%*s", width, text)
	}
	return fmt.Sprintf("%-*s", width, text)
}
