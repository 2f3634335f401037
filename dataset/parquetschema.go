package dataset

import (
	"fmt"
	"strconv"

	"github.com/parquet-go/parquet-go/deprecated"
	parquet "github.com/parquet-go/parquet-go/format"
)

// valuesOf returns what the values of a column are, in words for an error message, such as
// "strings".
func valuesOf(e parquet.SchemaElement) string {
	switch e.LogicalType.Value.(type) {
	case *parquet.DateType:
		return "dates"
	case *parquet.TimeType:
		return "times"
	case *parquet.TimestampType:
		return "timestamps"
	case *parquet.DecimalType:
		return "decimal numbers"
	}
	if e.ConvertedType.Valid {
		switch e.ConvertedType.V {
		case deprecated.Date:
			return "dates"
		case deprecated.TimeMillis, deprecated.TimeMicros:
			return "times"
		case deprecated.TimestampMillis, deprecated.TimestampMicros:
			return "timestamps"
		case deprecated.Decimal:
			return "decimal numbers"
		}
	}
	switch e.Type.V {
	case parquet.Boolean:
		return "booleans"
	case parquet.Int32, parquet.Int64:
		return "integers"
	case parquet.Int96:
		return "timestamps"
	case parquet.Float, parquet.Double:
		return "floating-point numbers"
	case parquet.FixedLenByteArray:
		return "bytes of a fixed length"
	case parquet.ByteArray:
		if isText(e) {
			return "strings"
		}
		return "bytes"
	}
	return fmt.Sprintf("values of the type %v", e.Type.V)
}

// outerColumn is a column at the top of a schema, and what it holds.
type outerColumn struct{ name, holds string }

// outerColumns returns the columns at the top of the schema, which columnsAndLists has checked.
// Lists and structs are one column each.
func (p *parquetFile) outerColumns() (columns []outerColumn) {
	at := 1 // after the root
	for range p.meta.Schema[0].NumChildren.V {
		name := p.meta.Schema[at].Name
		var holds string
		holds, at = p.holds(at)
		columns = append(columns, outerColumn{name, holds})
	}
	return columns
}

// holds returns what element number at of the schema holds, in words, and the number of the element
// that follows it and the elements below it.
func (p *parquetFile) holds(at int) (text string, next int) {
	e := p.meta.Schema[at]
	next = at + 1
	if e.Type.Valid {
		text = valuesOf(e)
	} else {
		var fields, inner []string
		repeated := false
		for range e.NumChildren.V {
			child := p.meta.Schema[next]
			fields = append(fields, strconv.Quote(abbreviate(child.Name)))
			repeated = repeated || child.RepetitionType.V == parquet.Repeated
			var below string
			below, next = p.holds(next)
			inner = append(inner, below)
		}
		switch _, isMap := e.LogicalType.Value.(*parquet.MapType); {
		case isMap || e.ConvertedType.Valid && e.ConvertedType.V == deprecated.Map:
			text = "maps"
		case repeated && len(inner) == 1: // "lists of" and what the list holds
			text = inner[0]
		case e.RepetitionType.V == parquet.Repeated && len(inner) == 1: // the inner part of a list
			text = inner[0]
		default:
			text = "structs with the fields " + abbreviateList(fields)
		}
	}
	if e.RepetitionType.V == parquet.Repeated {
		text = "lists of " + text
	}
	return abbreviate(text), next
}

// holdsOf returns what a column at the top of the schema holds, in words; "" if there is none of
// this name.
func (p *parquetFile) holdsOf(name string) string {
	for _, c := range p.outerColumns() {
		if c.name == name {
			return c.holds
		}
	}
	return ""
}

// describeColumns returns the columns for an error message, each with what it holds.
func (p *parquetFile) describeColumns() string {
	var all []string
	for _, c := range p.outerColumns() {
		all = append(all, fmt.Sprintf("%q (%s)", abbreviate(c.name), c.holds))
	}
	return abbreviateList(all)
}
