package checkpoint

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/sptune/spt/internal/pickle"
)

// opaque represents a value that only Python code can build: a class, a function, or the result of
// a call of one. Only the name is known.
type opaque struct {
	Global string // module and name, such as "argparse.Namespace" or "torch.float32"

	called  bool     // the value is the result of a call of Global, not Global itself
	storage *storage // set if the value is a storage of PyTorch
	descr   string   // set if the value is a numpy.dtype; a text for npyType
}

// unpickler reads pickles without executing anything. A pickle is a program for a stack machine,
// which may name any Python class or function (a global) and call it. The unpickler keeps only the
// name of a global. If a pickle calls one of the globals that construct knows, the result is a
// plain value. If it calls any other, the result is an opaque value.
type unpickler struct {
	r     *bufio.Reader
	pos   int64 // number of bytes that were read
	size  int64 // number of bytes that r has
	file  string
	start int64 // offset of r in the file in bytes, for errors
	// persistent returns the value for a persistent id. PyTorch writes each storage as such an id.
	// nil: persistent ids are an error.
	persistent func(id []pickle.Value) (pickle.Value, error)

	stack []pickle.Value
	marks []int                   // for each mark, the length of the stack when it was set
	most  int                     // the largest length of the stack so far
	memo  map[uint64]pickle.Value // values that the pickle stored for later use
	spent int64                   // estimated memory of the values, in bytes
	cause error                   // error of the underlying reader, which is no fault of the file
}

// newUnpickler returns an unpickler for the size bytes of r from offset begin.
func newUnpickler(r io.ReaderAt, begin, size int64, file string) *unpickler {
	return &unpickler{r: bufio.NewReader(io.NewSectionReader(r, begin, size)), size: size, file: file, start: begin}
}

// load reads the next pickle.
func (p *unpickler) load() (pickle.Value, error) {
	p.stack, p.marks, p.memo, p.most = nil, nil, map[uint64]pickle.Value{}, 0
	for {
		at := p.pos
		op, err := p.byte()
		if err == nil {
			if op == '.' {
				v, err := p.pop()
				if err == nil {
					err = pickle.Check(v)
				}
				if err != nil {
					return nil, p.fail(at, op, err)
				}
				return v, nil
			}
			err = p.step(op)
		}
		if err != nil {
			return nil, p.fail(at, op, err)
		}
	}
}

// fail returns the error for the opcode op at offset at.
func (p *unpickler) fail(at int64, op byte, err error) error {
	if p.cause != nil {
		return fmt.Errorf("checkpoint %s: reading a pickle: %w", p.file, p.cause)
	}
	return &FormatError{File: p.file, Offset: p.start + at, Err: fmt.Errorf("the pickle is damaged at opcode 0x%02x: %w", op, err)}
}

// charge adds n to the estimated memory in bytes and returns an error if it exceeds 1 MiB plus 32
// times the bytes that were read. The pickle of a model takes about ten bytes of memory for each
// byte of the file, and a list of bools about thirty. Only a pickle that is made to fill the memory
// takes more.
func (p *unpickler) charge(n int) error {
	if p.spent += int64(n); p.spent > 1<<20+32*p.pos {
		return fmt.Errorf("its values would take more than 32 times as much memory as the pickle has bytes")
	}
	return nil
}

// read fills buf.
func (p *unpickler) read(buf []byte) error {
	n, err := io.ReadFull(p.r, buf)
	p.pos += int64(n)
	return p.readError(err)
}

// readError returns the error to report for err, an error of r. The end of r means that the file is
// cut short. Any other error is kept in p.cause, because it is no fault of the file.
func (p *unpickler) readError(err error) error {
	switch err {
	case nil:
		return nil
	case io.EOF, io.ErrUnexpectedEOF:
		return fmt.Errorf("the pickle ends too early; the file is cut short: %w", io.ErrUnexpectedEOF)
	}
	p.cause = err
	return err
}

// byte reads one byte.
func (p *unpickler) byte() (byte, error) {
	b, err := p.r.ReadByte()
	if err == nil {
		p.pos++
	}
	return b, p.readError(err)
}

// uint reads an unsigned little-endian number of width bytes.
func (p *unpickler) uint(width int) (uint64, error) {
	var b [8]byte
	err := p.read(b[:width])
	return binary.LittleEndian.Uint64(b[:]), err
}

// bytes reads n bytes. It first checks that r still has n bytes.
func (p *unpickler) bytes(n uint64) ([]byte, error) {
	if n > uint64(p.size-p.pos) {
		return nil, fmt.Errorf("a value should have %d bytes, but only %d are left; the file is cut short or damaged", n, p.size-p.pos)
	}
	b := make([]byte, n)
	if err := p.read(b); err != nil {
		return nil, err
	}
	return b, p.charge(24 + len(b))
}

// lengthPrefixed reads a number of width bytes and then as many bytes as the number states.
func (p *unpickler) lengthPrefixed(width int) ([]byte, error) {
	n, err := p.uint(width)
	if err != nil {
		return nil, err
	}
	return p.bytes(n)
}

// line reads up to the next newline and returns the text before it. A line that does not fit into
// the buffer of the reader, 4096 bytes, is an error. Names and numbers are shorter.
func (p *unpickler) line() (string, error) {
	b, err := p.r.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		return "", fmt.Errorf("a line has more than %d bytes", len(b))
	}
	p.pos += int64(len(b))
	if err := p.readError(err); err != nil {
		return "", err
	}
	return string(b[:len(b)-1]), p.charge(16 + len(b))
}

// push puts v on the stack.
func (p *unpickler) push(v pickle.Value) error {
	p.stack = append(p.stack, v)
	if len(p.stack) > p.most {
		p.most = len(p.stack)
		return p.charge(16)
	}
	return nil
}

// base returns the length that the stack had at the last mark, or 0 without a mark. Values below
// cannot be popped.
func (p *unpickler) base() int {
	if len(p.marks) == 0 {
		return 0
	}
	return p.marks[len(p.marks)-1]
}

// pop takes the last value off the stack.
func (p *unpickler) pop() (pickle.Value, error) {
	v, err := p.top()
	if err == nil {
		p.stack = p.stack[:len(p.stack)-1]
	}
	return v, err
}

// top returns the last value on the stack.
func (p *unpickler) top() (pickle.Value, error) {
	if len(p.stack) <= p.base() {
		return nil, fmt.Errorf("the stack is empty")
	}
	return p.stack[len(p.stack)-1], nil
}

// popMark takes the last mark and all values above it off the stack. The result is valid until the
// next push.
func (p *unpickler) popMark() ([]pickle.Value, error) {
	if len(p.marks) == 0 {
		return nil, fmt.Errorf("there is no mark on the stack")
	}
	at := p.base()
	items := p.stack[at:]
	p.stack, p.marks = p.stack[:at], p.marks[:len(p.marks)-1]
	return items, nil
}

// list pushes a new list that holds items.
func (p *unpickler) list(items []pickle.Value) error {
	if err := p.charge(64); err != nil {
		return err
	}
	l := &pickle.List{}
	if err := p.extend(l, items); err != nil {
		return err
	}
	return p.push(l)
}

// extend appends items to a list. Appending to an opaque value does nothing.
func (p *unpickler) extend(to pickle.Value, items []pickle.Value) error {
	switch l := to.(type) {
	case *opaque:
		return nil
	case *pickle.List:
		l.Items = append(l.Items, items...)
		return p.charge(16 * len(items))
	}
	return fmt.Errorf("values are appended to %s; expected a list", describe(to))
}

// set adds pairs to a dict. pairs alternates keys and values. Setting values of an opaque value
// does nothing.
func (p *unpickler) set(to pickle.Value, pairs []pickle.Value) error {
	if len(pairs)%2 != 0 {
		return fmt.Errorf("a dict has a key without a value")
	}
	d, ok := to.(*pickle.Dict)
	if _, opaque := to.(*opaque); opaque {
		return nil
	} else if !ok {
		return fmt.Errorf("values are set in %s; expected a dict", describe(to))
	}
	for i := 0; i < len(pairs); i += 2 {
		key, v := pairs[i], pairs[i+1]
		if err := p.charge(112); err != nil {
			return err
		}
		if err := d.Add(key, v); err != nil {
			return err
		}
	}
	return nil
}

// apply pushes the result of a call of callable with args. Nothing is executed; see construct.
func (p *unpickler) apply(callable pickle.Value, args []pickle.Value) error {
	g, ok := callable.(*opaque)
	if !ok {
		return fmt.Errorf("%s is called; expected a class or function", describe(callable))
	}
	v, err := pickle.Value(nil), error(nil)
	if !g.called {
		v, ok, err = p.construct(g.Global, args)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", printable(g.Global), err)
	}
	if g.called || !ok {
		v = &opaque{Global: g.Global, called: true}
	}
	if err := p.charge(96); err != nil {
		return err
	}
	return p.push(v)
}

// global pushes the class or function called name in a Python module, which is an opaque value.
func (p *unpickler) global(module, name string) error {
	if err := p.charge(96 + len(module) + len(name)); err != nil {
		return err
	}
	return p.push(&opaque{Global: module + "." + name})
}

// put stores the last value on the stack in the memo under i.
func (p *unpickler) put(i uint64) error {
	v, err := p.top()
	if err != nil {
		return err
	}
	if _, ok := p.memo[i]; !ok {
		err = p.charge(48)
	}
	p.memo[i] = v
	return err
}

// get pushes the value that the memo has under i.
func (p *unpickler) get(i uint64) error {
	v, ok := p.memo[i]
	if !ok {
		return fmt.Errorf("the memo has no value under %d", i)
	}
	return p.push(v)
}

// operand holds, for each opcode with a number after it, the number of bytes of that number. The
// number is a value, a length, or a key of the memo.
var operand = [256]int{
	'K': 1, 'M': 2, 'J': 4, 0x8a: 1, 0x8b: 4, // numbers
	'X': 4, 0x8c: 1, 0x8d: 8, 'U': 1, 'T': 4, 'B': 4, 'C': 1, 0x8e: 8, 0x96: 8, // strings and bytes
	'q': 1, 'r': 4, 'h': 1, 'j': 4, // memo
	0x82: 1, 0x83: 2, 0x84: 4, // extensions
}

// step executes one opcode. It does not know the opcodes of protocol 0 for text, because no
// checkpoint has them.
func (p *unpickler) step(op byte) error {
	switch op {
	case 0x80: // PROTO
		n, err := p.byte()
		if err == nil && n > 5 {
			err = fmt.Errorf("the pickle has protocol %d; expected at most 5", n)
		}
		return err
	case 0x95: // FRAME; its length is only of use for a buffer
		_, err := p.uint(8)
		return err
	case '(': // MARK
		p.marks = append(p.marks, len(p.stack))
		return p.charge(8)
	case '0': // POP; pops a mark if there is no value above it
		if n := len(p.marks); n > 0 && p.base() == len(p.stack) {
			p.marks = p.marks[:n-1]
			return nil
		}
		_, err := p.pop()
		return err
	case '1': // POP_MARK
		_, err := p.popMark()
		return err
	case '2': // DUP
		v, err := p.top()
		if err != nil {
			return err
		}
		return p.push(v)

	case 'N':
		return p.push(nil)
	case 0x88:
		return p.push(true)
	case 0x89:
		return p.push(false)
	case 'K', 'M', 'J': // BININT1, BININT2, BININT
		n, err := p.uint(operand[op])
		if err != nil {
			return err
		}
		if op == 'J' {
			return p.number(int64(int32(n)))
		}
		return p.number(int64(n))
	case 0x8a, 0x8b: // LONG1, LONG4
		b, err := p.lengthPrefixed(operand[op])
		if err != nil {
			return err
		}
		return p.long(b)
	case 'I', 'L': // INT, LONG
		return p.decimal()
	case 'F': // FLOAT
		s, err := p.line()
		if err != nil {
			return err
		}
		v, err := strconv.ParseFloat(s, 64)
		if err != nil && !math.IsInf(v, 0) {
			return fmt.Errorf("%.50q is not a number", s)
		}
		return p.number(v)
	case 'G': // BINFLOAT, big-endian
		var b [8]byte
		if err := p.read(b[:]); err != nil {
			return err
		}
		return p.number(math.Float64frombits(binary.BigEndian.Uint64(b[:])))

	case 'X', 0x8c, 0x8d, 'U', 'T':
		// BINUNICODE, SHORT_BINUNICODE, BINUNICODE8; SHORT_BINSTRING and BINSTRING, the str of
		// Python 2
		b, err := p.lengthPrefixed(operand[op])
		if err != nil {
			return err
		}
		return p.push(string(b))
	case 'B', 'C', 0x8e, 0x96: // BINBYTES, SHORT_BINBYTES, BINBYTES8, BYTEARRAY8
		b, err := p.lengthPrefixed(operand[op])
		if err != nil {
			return err
		}
		return p.push(b)

	case ']', ')': // EMPTY_LIST, EMPTY_TUPLE
		return p.list(nil)
	case 'l', 't': // LIST, TUPLE
		items, err := p.popMark()
		if err != nil {
			return err
		}
		return p.list(items)
	case 0x85, 0x86, 0x87: // TUPLE1, TUPLE2, TUPLE3
		n := int(op - 0x84)
		if len(p.stack)-p.base() < n {
			return fmt.Errorf("the stack has too few values for a tuple")
		}
		items := p.stack[len(p.stack)-n:]
		p.stack = p.stack[:len(p.stack)-n]
		return p.list(items)
	case 'a': // APPEND
		v, err := p.pop()
		if err != nil {
			return err
		}
		l, err := p.top()
		if err != nil {
			return err
		}
		return p.extend(l, []pickle.Value{v})
	case 'e', 0x90: // APPENDS, ADDITEMS
		items, err := p.popMark()
		if err != nil {
			return err
		}
		l, err := p.top()
		if err != nil {
			return err
		}
		return p.extend(l, items)
	case 0x8f: // EMPTY_SET
		if err := p.global("builtins", "set"); err != nil {
			return err
		}
		p.stack[len(p.stack)-1].(*opaque).called = true
		return nil
	case 0x91: // FROZENSET
		if _, err := p.popMark(); err != nil {
			return err
		}
		if err := p.charge(96); err != nil {
			return err
		}
		return p.push(&opaque{Global: "builtins.frozenset", called: true})

	case '}', 'd': // EMPTY_DICT, DICT
		var pairs []pickle.Value
		if op == 'd' {
			var err error
			if pairs, err = p.popMark(); err != nil {
				return err
			}
		}
		d := &pickle.Dict{}
		if err := p.charge(96); err != nil {
			return err
		}
		if err := p.set(d, pairs); err != nil {
			return err
		}
		return p.push(d)
	case 's': // SETITEM
		v, err := p.pop()
		if err != nil {
			return err
		}
		key, err := p.pop()
		if err != nil {
			return err
		}
		d, err := p.top()
		if err != nil {
			return err
		}
		return p.set(d, []pickle.Value{key, v})
	case 'u': // SETITEMS
		pairs, err := p.popMark()
		if err != nil {
			return err
		}
		d, err := p.top()
		if err != nil {
			return err
		}
		return p.set(d, pairs)

	case 'p', 'g': // PUT, GET
		s, err := p.line()
		if err != nil {
			return err
		}
		i, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return fmt.Errorf("%.50q is not a number", s)
		}
		if op == 'p' {
			return p.put(i)
		}
		return p.get(i)
	case 'q', 'r', 'h', 'j': // BINPUT, LONG_BINPUT, BINGET, LONG_BINGET
		i, err := p.uint(operand[op])
		if err != nil {
			return err
		}
		if op == 'q' || op == 'r' {
			return p.put(i)
		}
		return p.get(i)
	case 0x94: // MEMOIZE
		return p.put(uint64(len(p.memo)))

	case 'c': // GLOBAL
		module, err := p.line()
		if err != nil {
			return err
		}
		name, err := p.line()
		if err != nil {
			return err
		}
		return p.global(module, name)
	case 0x93: // STACK_GLOBAL
		name, err := p.pop()
		if err != nil {
			return err
		}
		module, err := p.pop()
		if err != nil {
			return err
		}
		n, ok := name.(string)
		m, also := module.(string)
		if !ok || !also {
			return fmt.Errorf("%s in %s is not the name of a class", describe(name), describe(module))
		}
		return p.global(m, n)
	case 0x82, 0x83, 0x84:
		// EXT1, EXT2, EXT4: a number that represents a global in one program only
		n, err := p.uint(operand[op])
		if err != nil {
			return err
		}
		return p.global("copyreg.extension", strconv.FormatUint(n, 10))
	case 'R', 0x81: // REDUCE, NEWOBJ
		args, err := p.pop()
		if err != nil {
			return err
		}
		callable, err := p.pop()
		if err != nil {
			return err
		}
		l, ok := args.(*pickle.List)
		if !ok {
			return fmt.Errorf("%s is called with %s; expected a tuple", describe(callable), describe(args))
		}
		return p.apply(callable, l.Items)
	case 0x92: // NEWOBJ_EX: with keyword arguments, which no class that construct knows takes
		for range 2 {
			if _, err := p.pop(); err != nil {
				return err
			}
		}
		callable, err := p.pop()
		if err != nil {
			return err
		}
		return p.instance(callable)
	case 'i': // INST
		module, err := p.line()
		if err != nil {
			return err
		}
		name, err := p.line()
		if err != nil {
			return err
		}
		if _, err := p.popMark(); err != nil {
			return err
		}
		return p.instance(&opaque{Global: module + "." + name})
	case 'o': // OBJ
		items, err := p.popMark()
		if err != nil {
			return err
		}
		if len(items) == 0 {
			return fmt.Errorf("an object has no class")
		}
		return p.instance(items[0])
	case 'b': // BUILD
		state, err := p.pop()
		if err != nil {
			return err
		}
		v, err := p.top()
		if err != nil {
			return err
		}
		return build(v, state)
	case 'Q': // BINPERSID
		id, err := p.pop()
		if err != nil {
			return err
		}
		l, ok := id.(*pickle.List)
		if !ok || p.persistent == nil {
			return fmt.Errorf("the persistent id is %s; expected the tuple of a storage, in a file of PyTorch", describe(id))
		}
		v, err := p.persistent(l.Items)
		if err != nil {
			return err
		}
		if err := p.charge(160); err != nil {
			return err
		}
		return p.push(v)
	}
	return fmt.Errorf("a checkpoint has no such opcode")
}

// instance pushes an object of class, as an opaque value.
func (p *unpickler) instance(class pickle.Value) error {
	g, ok := class.(*opaque)
	if !ok {
		return fmt.Errorf("an object of %s is built; expected a class", describe(class))
	}
	if err := p.charge(96); err != nil {
		return err
	}
	return p.push(&opaque{Global: g.Global, called: true})
}

// number pushes v, which is an int64 or a float64.
func (p *unpickler) number(v pickle.Value) error {
	if err := p.charge(8); err != nil {
		return err
	}
	return p.push(v)
}

// long pushes the number whose little-endian two's complement is b.
func (p *unpickler) long(b []byte) error {
	if len(b) > 1024 {
		return fmt.Errorf("a number has %d bytes; expected at most 1024", len(b))
	}
	if len(b) <= 8 {
		var wide [8]byte
		if n := copy(wide[:], b); n > 0 && b[n-1]&0x80 != 0 {
			for i := n; i < 8; i++ {
				wide[i] = 0xff
			}
		}
		return p.number(int64(binary.LittleEndian.Uint64(wide[:])))
	}
	slices.Reverse(b)
	v := new(big.Int).SetBytes(b)
	if b[0]&0x80 != 0 {
		v.Sub(v, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	return p.whole(v)
}

// decimal reads a line with a number in digits and pushes the number. "00" and "01" are the bools
// of protocol 1.
func (p *unpickler) decimal() error {
	s, err := p.line()
	if err != nil {
		return err
	}
	if s == "00" || s == "01" {
		return p.push(s == "01")
	}
	v, ok := new(big.Int).SetString(strings.TrimSuffix(s, "L"), 10)
	if !ok {
		return fmt.Errorf("%.50q is not a number", s)
	}
	return p.whole(v)
}

// whole pushes v, as an int64 if it fits.
func (p *unpickler) whole(v *big.Int) error {
	if v.IsInt64() {
		return p.number(v.Int64())
	}
	return p.push(v)
}

// describe returns the type of v for an error. It does not look at the values inside v, because
// there may be very many.
func describe(v pickle.Value) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return "a bool"
	case int64, *big.Int:
		return "an int"
	case float64:
		return "a float"
	case string:
		return "a string"
	case []byte:
		return "bytes"
	case *pickle.List:
		return v.String()
	case *pickle.Dict:
		return v.String()
	case *storedTensor:
		if v.fault != nil {
			return "a tensor that cannot be read"
		}
		return fmt.Sprintf("a tensor %.100s", fmt.Sprint(v.shape))
	case *opaque:
		if v.called {
			return "an object of " + printable(v.Global)
		}
		return printable(v.Global)
	}
	return "a value of an unknown type"
}

// printable returns s shortened and with its control characters escaped, because the text of a
// hostile file could otherwise send commands to the terminal.
func printable(s string) string { return strings.Trim(fmt.Sprintf("%.100q", s), `"`) }
