package delta

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/peft"
)

// halfHeader is the kind and the version of a spt_delta.json that [Delta.SaveHalf] writes. Programs
// that know only the version of header refuse it.
var halfHeader = jsonfile.Header{Kind: jsonfile.Delta, Version: 2}

const (
	// gapsName is the name of the tensor with the positions of all tuned entries, as appendGaps
	// encodes them. One tensor for all takes less space than one for each tuned tensor, whose names
	// and offsets are text. The gaps in a ViT-Ti take one byte to one and a half.
	gapsName = "sparse_gaps"
	// halfLimit is the smallest number that rounds to infinity in float16.
	halfLimit = 65520
)

// SaveHalf is [Delta.Save] for many deltas on one disk: it writes values as float16 and positions
// of entries in one to two bytes each, which halves the safetensors file or does better. [Load]
// reads both forms. A value whose magnitude is 65520 or more is an error, because float16 cannot
// hold it. Each other value is rounded to the nearest float16: by at most one part in 2048, or by
// 3e-8 if its magnitude is below 6.1e-5.
func (d *Delta) SaveHalf(dir string) error { return d.save(dir, halfHeader, d.halfEntries) }

// halfEntries returns the tensors of the safetensors file that SaveHalf writes.
func (d *Delta) halfEntries() (all []checkpoint.Entry, err error) {
	for _, name := range slices.Sorted(maps.Keys(d.Tuned)) {
		t := d.Tuned[name]
		for i, v := range t.Data {
			if v >= halfLimit || v <= -halfLimit {
				return nil, fmt.Errorf("the tuned tensor %q holds %v at position %d, and float16 holds magnitudes below %d; save the delta with float32 values", name, v, i, halfLimit)
			}
		}
		all = append(all, checkpoint.Entry{Name: name, DType: checkpoint.F16, Shape: t.Shape, Data: t.Data})
	}
	var gaps []byte
	for _, name := range slices.Sorted(maps.Keys(d.Selection.Entries)) {
		gaps = appendGaps(gaps, d.Selection.Entries[name])
	}
	if len(gaps) > 0 {
		all = append(all, checkpoint.Entry{Name: gapsName, DType: checkpoint.U8, Shape: []int{len(gaps)}, Data: gaps})
	}
	return all, nil
}

// appendGaps appends ascending positions as gaps: the first position, and for each other position
// the number of positions between it and the one before. A gap has 7 bits in each byte, the lowest
// first, and bit 7 in all bytes but the last (LEB128).
func appendGaps(to []byte, positions []int32) []byte {
	next := int32(0)
	for _, p := range positions {
		to = binary.AppendUvarint(to, uint64(p-next))
		next = p + 1
	}
	return to
}

// takeGaps reads n positions from the start of gaps, and returns the bytes after them. It allocates
// nothing if there are fewer than n bytes.
func takeGaps(gaps []byte, n int) (positions []int32, rest []byte, err error) {
	if n > len(gaps) {
		return nil, nil, fmt.Errorf("found %d bytes for %d positions", len(gaps), n)
	}
	positions = make([]int32, n)
	next := uint64(0)
	for i := range positions {
		gap, size := binary.Uvarint(gaps)
		switch {
		case size <= 0:
			return nil, nil, fmt.Errorf("the gap before position %d is cut short or has more than 64 bits", i)
		case size > 1 && gaps[size-1] == 0:
			return nil, nil, fmt.Errorf("the gap before position %d has more bytes than it needs", i)
		case gap > math.MaxInt32 || next+gap > math.MaxInt32:
			return nil, nil, fmt.Errorf("position %d is above %d", i, math.MaxInt32)
		}
		positions[i] = int32(next + gap)
		next += gap + 1
		gaps = gaps[size:]
	}
	return positions, gaps, nil
}

// readHalf reads the tuned tensors and the positions of entries from the safetensors file of a
// delta that SaveHalf wrote.
func (d *Delta) readHalf(f *checkpoint.File) error {
	d.Tuned = checkpoint.StateDict{}
	var gaps []byte
	var sparse []string
	for _, info := range f.Tensors() {
		if info.Name == gapsName {
			var shape []int
			var err error
			if gaps, shape, err = f.Uint8(gapsName); err != nil {
				return err
			}
			if len(shape) != 1 || len(gaps) == 0 {
				return fmt.Errorf("tensor %q has shape %v, expected one dimension and at least one element", gapsName, shape)
			}
			continue
		}
		if info.DType != checkpoint.F16 {
			return fmt.Errorf("tensor %.200q has dtype %s, expected F16", info.Name, info.DType)
		}
		t, err := f.Float32(info.Name)
		if err != nil {
			return err
		}
		d.Tuned[info.Name] = t
		if name, ok := strings.CutSuffix(info.Name, peft.SparseValues("")); ok {
			sparse = append(sparse, name)
		}
	}
	slices.Sort(sparse)
	for _, name := range sparse {
		positions, rest, err := takeGaps(gaps, len(d.Tuned[peft.SparseValues(name)].Data))
		if err != nil {
			return fmt.Errorf("tensor %q, positions of entries in %.200q: %w", gapsName, name, err)
		}
		if d.Selection.Entries == nil {
			d.Selection.Entries = map[string][]int32{}
		}
		d.Selection.Entries[name], gaps = positions, rest
	}
	if len(gaps) > 0 {
		return fmt.Errorf("tensor %q has %d bytes after the last position", gapsName, len(gaps))
	}
	return nil
}
