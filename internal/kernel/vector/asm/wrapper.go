package main

import (
	"bytes"
	"flag"
	"fmt"
	"go/format"
	"log"
	"os"
	"slices"
	"strings"

	"github.com/sptune/spt/internal/kernel/vector/internal/scalar"
)

// wrapper describes a Go function that calls the version of an element-wise kernel for the
// instruction set in use.
type wrapper struct {
	kernel         string   // name of the kernel
	slices, scalar []string // parameters, as in [params]
	formula        string   // formula of element i of dst for the comment
	portable       string   // Go expression for element i of dst
	table          string   // Go expression for the table t that portable reads; empty: none
}

// wrappers lists the wrappers of the element-wise kernels. [elementwise] appends to it.
var wrappers []wrapper

// tabulated changes the portable code of the kernel written last. Its loop computes the expression
// portable, which reads a table once for all elements.
func tabulated(table, portable string) {
	w := &wrappers[len(wrappers)-1]
	w.table, w.portable = table, portable
}

// unexported lists the kernels that only package vector calls.
var unexported = []string{"addRows4", "expSubScalar", "normGrad", "normalize", "normalizeAffine"}

// title returns the name of the Go function for a kernel.
func title(kernel string) string {
	if slices.Contains(unexported, kernel) {
		return kernel
	}
	if rest, ok := strings.CutPrefix(kernel, "gelu"); ok {
		return "GELU" + rest
	}
	return strings.ToUpper(kernel[:1]) + kernel[1:]
}

// narrow reports whether the elements of a parameter have less than 32 bits.
func narrow(parameter string) bool {
	_, typ, typed := strings.Cut(parameter, " ")
	return typed && elementBytes[typ] < 4
}

// write writes the Go code of the wrapper.
func (w wrapper) write(b *bytes.Buffer) {
	var names, args []string
	for _, p := range slices.Concat(w.slices, w.scalar) {
		name, _, _ := strings.Cut(p, " ")
		args = append(args, name)
	}
	names = args[1:len(w.slices)]
	call := "(" + strings.Join(args, ", ") + ")"
	fmt.Fprintf(b, "\n// %s sets dst[i] = %s.\nfunc %s(%s) {\n", title(w.kernel), w.formula, title(w.kernel), params(w.slices, w.scalar))
	if len(names) > 0 {
		var cut []string
		for _, n := range names {
			cut = append(cut, n+"[:len(dst)]")
		}
		fmt.Fprintf(b, "%s = %s\n", strings.Join(names, ", "), strings.Join(cut, ", "))
	}
	narrow := slices.ContainsFunc(w.slices, narrow)
	from, end := "i := range dst", "return"
	if narrow {
		from, end = "i := done; i < len(dst); i++", "done = len(dst) &^ 7 // whole vectors only"
		b.WriteString("done := 0\n")
	}
	fmt.Fprintf(b, "switch {\ncase amd64 && level == avx512:\n%sAVX512%s\nreturn\ncase amd64 && level == avx2:\n%sAVX2%s\n%s\n", w.kernel, call, w.kernel, call, end)
	if !narrow {
		fmt.Fprintf(b, "case arm64 && level == neon:\n%sNEON%s\nreturn\n", w.kernel, call)
	}
	b.WriteString("}\n")
	if w.table != "" {
		fmt.Fprintf(b, "t := %s\n", w.table)
	}
	fmt.Fprintf(b, "for %s {\ndst[i] = %s\n}\n}\n", from, w.portable)
}

// writeMaps writes the maps from operations to the functions in the tables of package scalar.
func writeMaps(b *bytes.Buffer) {
	b.WriteString("\n// Unaries maps an operation to its function of one number.\nvar Unaries = map[compute.OpType]Unary{\n")
	for i, row := range scalar.Unaries {
		fmt.Fprintf(b, "compute.OpType%s: {%s, &scalar.Unaries[%d]},\n", row.Op, title(row.Name), i)
	}
	b.WriteString("}\n\n// Binaries maps an operation to its functions of two numbers.\nvar Binaries = map[compute.OpType]Binary{\n")
	for _, row := range scalar.Binaries {
		withScalar, from := title(row.Name+"Scalar"), title(row.Name+"From")
		if row.Commutative {
			from = withScalar
		}
		if row.Negated != "" {
			withScalar = fmt.Sprintf("func(dst, a []float32, s float32) { %s(dst, a, -s) }", title(row.Negated+"Scalar"))
		}
		fmt.Fprintf(b, "compute.OpType%s: {%s, %s, %s, scalar.%s},\n", row.Op, title(row.Name), withScalar, from, title(row.Name))
	}
	b.WriteString("}\n\n// Comparisons maps an operation to its comparison functions.\nvar Comparisons = map[compute.OpType]Comparison{\n")
	for _, row := range scalar.Comparisons {
		fmt.Fprintf(b, "compute.OpType%s: {%s, %s, %s, scalar.%s},\n", row.Op, title(row.Name), title(row.Name+"Scalar"), title(row.Swapped+"Scalar"), title(row.Name))
	}
	b.WriteString("}\n")
}

// writeWrappers adds the maps and the wrappers to the file that avo wrote for the flag -stubs. So
// all generated Go code is in one file.
func writeWrappers() {
	file := flag.Lookup("stubs").Value.String()
	stubs, err := os.ReadFile(file)
	if err != nil {
		log.Fatal(err)
	}
	head, declarations, ok := bytes.Cut(stubs, []byte("\npackage vector\n"))
	if !ok {
		log.Fatalf("adding wrappers to %s: the file has no line \"package vector\"", file)
	}
	var b bytes.Buffer
	b.Write(head)
	b.WriteString(`
package vector

import (
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes/bfloat16"

	"github.com/sptune/spt/internal/kernel/vector/internal/scalar"
)
`)
	writeMaps(&b)
	for _, w := range wrappers {
		w.write(&b)
	}
	b.Write(declarations)
	writeNEON(strings.Replace(flag.Lookup("out").Value.String(), "amd64", "arm64", 1), &b)
	src, err := format.Source(b.Bytes())
	if err != nil {
		log.Fatalf("formatting %s: %v", file, err)
	}
	if err := os.WriteFile(file, src, 0o666); err != nil {
		log.Fatal(err)
	}
}
