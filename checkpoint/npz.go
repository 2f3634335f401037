package checkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// npyMagic begins every .npy file.
const npyMagic = "\x93NUMPY"

// maxNpyHeader is the length in bytes of the longest header of a .npy file that is read. NumPy has
// the same limit. The header of an array of plain numbers has about a hundred bytes.
const maxNpyHeader = 10_000

// npyArray holds what the header of a .npy file says.
type npyArray struct {
	descr   string // the dtype as NumPy writes it, such as "<f4"; empty for a structure
	fortran bool   // the values are in column-major order
	shape   []int
}

// readNPYHeader reads the header of a .npy file of version 1, 2 or 3, and stops before the first
// byte of data. It also returns the length of the header in bytes.
func readNPYHeader(r io.Reader) (npyArray, int64, error) {
	var a npyArray
	start := make([]byte, 12)
	if _, err := io.ReadFull(r, start[:8]); err != nil {
		return a, 0, fmt.Errorf("the array has no header: %w", err)
	}
	if string(start[:6]) != npyMagic || start[6] < 1 || start[6] > 3 {
		return a, 0, fmt.Errorf("the array begins with %q, expected %q and a version from 1 to 3", start[:8], npyMagic)
	}
	width := 2
	if start[6] > 1 {
		width = 4
	}
	if _, err := io.ReadFull(r, start[8:8+width]); err != nil {
		return a, 0, fmt.Errorf("the header of the array is cut short: %w", err)
	}
	n := binary.LittleEndian.Uint32(start[8:])
	if n > maxNpyHeader {
		return a, 0, fmt.Errorf("the header of the array has %d bytes, expected at most %d", n, maxNpyHeader)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return a, 0, fmt.Errorf("the header of the array is cut short: %w", err)
	}
	p := npyParser{string(text)}
	a, err := p.header()
	if err != nil {
		err = fmt.Errorf("reading the header %.200q of the array: %w", text, err)
	}
	return a, int64(8 + width + len(text)), err
}

// npyParser reads the Python literal in the header of a .npy file, such as {'descr': '<f4',
// 'fortran_order': False, 'shape': (3, 4), }.
type npyParser struct {
	rest string // text that has not been read yet
}

// take reads token and the white space before it. It reports whether the text begins with them; if
// not, it reads nothing.
func (p *npyParser) take(token string) bool {
	rest, ok := strings.CutPrefix(strings.TrimLeft(p.rest, " \t\n"), token)
	if ok {
		p.rest = rest
	}
	return ok
}

// text reads a string in quotes. A string with a backslash is an error, because headers have no
// escapes.
func (p *npyParser) text() (string, error) {
	for _, quote := range []string{"'", `"`} {
		if p.take(quote) {
			s, rest, ok := strings.Cut(p.rest, quote)
			if !ok || strings.Contains(s, `\`) {
				break
			}
			p.rest = rest
			return s, nil
		}
	}
	return "", errors.New("expected a string in quotes")
}

// header reads the whole literal.
func (p *npyParser) header() (npyArray, error) {
	var a npyArray
	seen := map[string]bool{}
	if !p.take("{") {
		return a, errors.New("expected a dict")
	}
	for !p.take("}") {
		key, err := p.text()
		if err != nil {
			return a, err
		}
		if seen[key] || !p.take(":") {
			return a, fmt.Errorf("the key %q occurs twice or has no value", key)
		}
		seen[key] = true
		switch key {
		case "descr":
			if p.take("[") { // a structure, whose fields are not read
				err = p.skipList()
			} else {
				a.descr, err = p.text()
			}
		case "fortran_order":
			if a.fortran = p.take("True"); !a.fortran && !p.take("False") {
				err = errors.New("fortran_order is neither True nor False")
			}
		case "shape":
			a.shape, err = p.tuple()
		default:
			err = fmt.Errorf("unknown key %q, expected descr, fortran_order and shape", key)
		}
		if err != nil {
			return a, err
		}
		if !p.take(",") {
			if !p.take("}") {
				return a, errors.New("expected a comma or a closing brace")
			}
			break
		}
	}
	if len(seen) != 3 || strings.TrimSpace(p.rest) != "" {
		return a, errors.New("expected the keys descr, fortran_order and shape and nothing else")
	}
	return a, nil
}

// skipList skips the rest of a list and its closing bracket. It counts brackets inside field names
// too, which does no harm because arrays with fields are not read.
func (p *npyParser) skipList() error {
	for depth := 1; depth > 0; {
		i := strings.IndexAny(p.rest, "[]")
		if i < 0 {
			return errors.New("a list has no closing bracket")
		}
		if p.rest[i] == '[' {
			depth++
		} else {
			depth--
		}
		p.rest = p.rest[i+1:]
	}
	return nil
}

// tuple reads the tuple of the shape.
func (p *npyParser) tuple() ([]int, error) {
	shape := []int{}
	if !p.take("(") {
		return nil, errors.New("the shape is not a tuple")
	}
	for !p.take(")") {
		p.rest = strings.TrimLeft(p.rest, " ")
		n := strings.IndexFunc(p.rest, func(r rune) bool { return r < '0' || r > '9' })
		if n <= 0 || len(shape) == maxRank {
			return nil, fmt.Errorf("the shape is not a tuple of at most %d whole numbers", maxRank)
		}
		d, err := strconv.ParseInt(p.rest[:n], 10, strconv.IntSize)
		if err != nil {
			return nil, fmt.Errorf("reading a dimension of the shape: %w", err)
		}
		shape = append(shape, int(d))
		p.rest = strings.TrimPrefix(p.rest[n:], "L") // Python 2 writes 3L for a long 3
		if !p.take(",") {
			if !p.take(")") {
				return nil, errors.New("the shape has no closing parenthesis")
			}
			break
		}
	}
	return shape, nil
}

// npz returns the arrays of a zip archive of .npy files. The name of an array is the name of its
// member without the extension .npy.
func (a *archive) npz() (contents, error) {
	c := contents{format: "NumPy npz", dict: dict{others: map[string]string{}}}
	for _, member := range a.names {
		name, ok := strings.CutSuffix(member, ".npy")
		b := a.members[member]
		if !ok {
			c.others[member] = "a file that is not a .npy array"
			continue
		}
		fail := func(format string, args ...any) (contents, error) {
			return contents{}, &FormatError{File: a.file, Offset: b.begin, Tensor: name, Err: fmt.Errorf(format, args...)}
		}
		if !utf8.ValidString(name) {
			return fail("the name of the array is not valid UTF-8")
		}
		rc, err := b.stream(0, b.size)
		if err != nil {
			return fail("%w", err)
		}
		array, n, err := readNPYHeader(rc)
		rc.Close()
		if err != nil {
			return fail("%w", err)
		}
		dtype, err := npyType(array.descr)
		if err != nil {
			c.others[name] = err.Error()
			continue
		}
		s := strided{dtype: dtype, shape: array.shape, stride: rowMajor(array.shape)}
		if array.fortran {
			s.stride = columnMajor(array.shape)
		}
		b.skip, b.size = n, b.size-n
		size, err := s.bytes(b.size)
		if err == nil && size != b.size {
			err = fmt.Errorf("%s %v takes %d bytes, but %d bytes follow the header", dtype, array.shape, size, b.size)
		}
		if err != nil {
			return fail("%w", err)
		}
		info := TensorInfo{Name: name, DType: dtype, Shape: array.shape}
		c.tensors = append(c.tensors, stored{info, a.file, b.begin, func() (io.ReadCloser, error) { return s.open(b, size) }})
	}
	return c, nil
}
