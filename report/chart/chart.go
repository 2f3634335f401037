// Package chart draws charts as SVG elements for HTML pages that open without a network. A chart is
// a struct with the data and the labels: a [Line], a [Bar], a [HeatMap], a [Scatter] or a
// [Reliability]. Its method SVG returns the element. The same chart gives the same bytes.
//
// Every chart has a Title, which stands above it, an XLabel and a YLabel, which name the axes with
// their units, and a Description for readers who do not see the chart. All are optional. Without a
// Description, the chart states the range and the extreme values of its data.
//
// A page puts [Style] into its style element once. The elements contain no scripts, no style
// elements and no identifiers, so a page can hold any number of them. Numbers show as the browser's
// own tooltips. Series differ in dash patterns, markers or fill as well as in colour.
//
// A chart is at most as wide as the element around it, except on screens below 40 em, where it
// keeps its size so that its text stays legible. Put a chart into an element with the class
// chart-scroll, which scrolls there.
//
// Texts can hold any characters. SVG escapes them, and cuts long ones. Values that a chart cannot
// place are left out, and the chart says how many: NaN, infinities, sizes above 1e300, and values
// that are not positive on a logarithmic axis.
package chart

import (
	"fmt"
	"strings"
)

// notPlaced notes values that are not numbers or, on a logarithmic axis, not positive.
func (c *canvas) notPlaced(n int, log bool, what string) {
	why := "not a finite number"
	if log {
		why = "not a positive finite number"
	}
	c.note(n, "1 "+what+" is not shown: "+why+".", "%s "+what+"s are not shown: "+why+".")
}

// describe returns the description of a chart: the one of its field, or else sentences about its
// data.
func describe(description string, sentences ...string) string {
	if description != "" {
		return sentence(description)
	}
	return strings.Join(sentences, " ")
}

// against returns the beginning of a description, such as "Line chart of accuracy against epoch."
func against(kind, y, x string) string {
	switch {
	case y != "" && x != "":
		return fmt.Sprintf("%s of %s against %s.", kind, y, x)
	case y != "":
		return fmt.Sprintf("%s of %s.", kind, y)
	}
	return kind + "."
}

// named returns "name: value", or the value if there is no name.
func named(name, value string) string {
	if name == "" {
		return value
	}
	return name + ": " + value
}

// interval returns " (low to high)", or nothing unless both ends can be drawn.
func interval(low, high *float64, percent bool) string {
	if !bounded(low, high, false) {
		return ""
	}
	return fmt.Sprintf(" (%s to %s)", value(*low, percent), value(*high, percent))
}
