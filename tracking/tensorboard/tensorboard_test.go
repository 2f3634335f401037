package tensorboard_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"image"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sptune/spt/tracking/tensorboard"
)

var began = time.Unix(1700000000, 250e6)

// field is one field of a protobuf message. The test decodes messages without protowire.
type field struct {
	number   int
	number64 uint64 // a varint, fixed32 or fixed64
	bytes    []byte
}

// decode returns the fields of a message.
func decode(t *testing.T, b []byte) (fields []field) {
	t.Helper()
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			t.Fatalf("bad tag in %x", b)
		}
		b = b[n:]
		f := field{number: int(tag >> 3)}
		switch tag & 7 {
		case 0:
			f.number64, n = binary.Uvarint(b)
		case 1:
			f.number64, n = binary.LittleEndian.Uint64(b), 8
		case 5:
			f.number64, n = uint64(binary.LittleEndian.Uint32(b)), 4
		case 2:
			size, k := binary.Uvarint(b)
			f.bytes, n = b[k:k+int(size)], k+int(size)
		default:
			t.Fatalf("wire type %d", tag&7)
		}
		b = b[n:]
		fields = append(fields, f)
	}
	return fields
}

// one returns the only field with a number. It returns the zero field if there is none.
func one(t *testing.T, b []byte, number int) field {
	t.Helper()
	var found []field
	for _, f := range decode(t, b) {
		if f.number == number {
			found = append(found, f)
		}
	}
	if len(found) > 1 {
		t.Fatalf("%d fields %d", len(found), number)
	}
	return append(found, field{})[0]
}

// masked is the checksum as the definition of TFRecord states it.
func masked(b []byte) uint32 {
	sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	return ((sum >> 15) | (sum << 17)) + 0xa282ead8
}

// records returns the events of a file.
func records(t *testing.T, data []byte) (events [][]byte) {
	t.Helper()
	for len(data) > 0 {
		if len(data) < 16 {
			t.Fatalf("%d bytes after the last record", len(data))
		}
		n := binary.LittleEndian.Uint64(data)
		if got := binary.LittleEndian.Uint32(data[8:]); got != masked(data[:8]) {
			t.Fatalf("checksum of the length is %x, want %x", got, masked(data[:8]))
		}
		event := data[12 : 12+n]
		if got := binary.LittleEndian.Uint32(data[12+n:]); got != masked(event) {
			t.Fatalf("checksum of the event is %x, want %x", got, masked(event))
		}
		events = append(events, event)
		data = data[16+n:]
	}
	return events
}

// files returns the names of the files in a folder, and the content of the last one.
func files(t *testing.T, dir string) (names []string, content []byte) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if err == nil {
		content, err = os.ReadFile(filepath.Join(dir, names[len(names)-1]))
	}
	if err != nil {
		t.Fatal(err)
	}
	return names, content
}

// TestHeader compares the first record with the bytes that TensorBoard 2.21.0 writes for the same
// time:
//
//	from tensorboard.summary.writer.record_writer import RecordWriter
//	from tensorboard.compat.proto.event_pb2 import Event
//	event = Event(wall_time=1700000000.25, file_version="brain.Event:2")
//	RecordWriter(file).write(event.SerializeToString())
func TestHeader(t *testing.T) {
	dir := t.TempDir()
	if err := tensorboard.New(dir, "0123", began).Flush(); err != nil {
		t.Fatal(err)
	}
	names, content := files(t, dir)
	want, err := hex.DecodeString("1800000000000000a37f4b220900001040fc54d9411a0d627261696e2e4576656e743a32338d2fe9")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(content, want) || !slices.Equal(names, []string{"events.out.tfevents.1700000000.0123.0001"}) {
		t.Errorf("%q begins with %x, want %x", names, content[:min(len(content), len(want))], want)
	}
}

// TestScalars decodes numbers with a decoder of its own.
func TestScalars(t *testing.T) {
	dir := t.TempDir()
	l := tensorboard.New(dir, "id", began)
	at := began.Add(1500 * time.Millisecond)
	values := []tensorboard.Scalar{{Tag: "loss", Value: 0.1}, {Tag: "größe/x", Value: -1e30}, {Tag: "z", Value: 0}}
	l.Scalars(at, 300, values...)
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	_, content := files(t, dir)
	events := records(t, content)
	if len(events) != 3 {
		t.Fatalf("%d events, want 3", len(events))
	}
	if s := one(t, one(t, events[1], 7).bytes, 1); s.number64 != 1 {
		t.Errorf("the second event is no start of a session: %v", s)
	}
	e := events[2]
	if wall := math.Float64frombits(one(t, e, 1).number64); wall != 1700000001.75 || one(t, e, 2).number64 != 300 {
		t.Errorf("time %v, step %d", wall, one(t, e, 2).number64)
	}
	found := decode(t, one(t, e, 5).bytes)
	if len(found) != len(values) {
		t.Fatalf("%d values", len(found))
	}
	for i, f := range found {
		tag, value := string(one(t, f.bytes, 1).bytes), math.Float32frombits(uint32(one(t, f.bytes, 2).number64))
		if f.number != 1 || tag != values[i].Tag || value != float32(values[i].Value) {
			t.Errorf("value %d is %s %v, want %v", i, tag, value, values[i])
		}
	}
}

// TestPNG checks the fields of an image, and that other data is refused.
func TestPNG(t *testing.T) {
	var encoded bytes.Buffer
	if err := png.Encode(&encoded, image.NewGray(image.Rect(0, 0, 7, 5))); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	l := tensorboard.New(dir, "id", began)
	if err := l.PNG(began, 3, "matrix", encoded.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := l.PNG(began, 3, "matrix", []byte("GIF89a")); err == nil {
		t.Error("PNG takes a GIF")
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	_, content := files(t, dir)
	value := one(t, one(t, records(t, content)[2], 5).bytes, 1).bytes
	i := one(t, value, 4).bytes
	if one(t, i, 1).number64 != 5 || one(t, i, 2).number64 != 7 || !bytes.Equal(one(t, i, 4).bytes, encoded.Bytes()) || string(one(t, value, 1).bytes) != "matrix" {
		t.Errorf("image %x", i)
	}
}

// TestFlush checks that each way of writing the same content leaves one file with this content: at
// once, after every event, after a crash within a record, over a file of an earlier training, and
// over a longer file of the same training.
func TestFlush(t *testing.T) {
	fill := func(l *tensorboard.Log, flush bool, losses ...float64) {
		t.Helper()
		for i, loss := range losses {
			l.Scalars(began.Add(time.Duration(i)*time.Second), i+1, tensorboard.Scalar{Tag: "loss", Value: loss})
			if flush {
				if err := l.Flush(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	losses := []float64{3, 2, 1}
	once := t.TempDir()
	fill(tensorboard.New(once, "id", began), false, losses...)
	names, want := files(t, once)
	check := func(what, dir string, want []byte, names ...string) {
		t.Helper()
		found, content := files(t, dir)
		if !slices.Equal(found, names) || !bytes.Equal(content, want) {
			t.Errorf("%s: %q with %d bytes, want %q with %d", what, found, len(content), names, len(want))
		}
		for _, name := range found[:len(found)-1] {
			if stat, err := os.Stat(filepath.Join(dir, name)); err != nil || stat.Size() > 0 {
				t.Errorf("%s: the earlier file %s has content, %v", what, name, err)
			}
		}
	}
	each := filepath.Join(t.TempDir(), "new", "[a]*")
	fill(tensorboard.New(each, "id", began), true, losses...)
	check("flushed after every event", each, want, names...)
	for n := range len(want) {
		cut := t.TempDir()
		if err := os.WriteFile(filepath.Join(cut, names[0]), want[:n], 0o666); err != nil {
			t.Fatal(err)
		}
		fill(tensorboard.New(cut, "id", began), true, losses...)
		check(fmt.Sprintf("cut at %d", n), cut, want, names...)
	}
	other := t.TempDir()
	fill(tensorboard.New(other, "id", began), true, 3, 2, 1.5, 1)
	fill(tensorboard.New(other, "id", began), true, losses...)
	check("over another training", other, want, names[0], "events.out.tfevents.1700000000.id.0002")
	fill(tensorboard.New(other, "id", began), true, losses[:2]...)
	check("from an earlier state", other, want, names[0], "events.out.tfevents.1700000000.id.0002")

	// Another owner in the same folder keeps its file.
	fill(tensorboard.New(once, "other", began), true, 7)
	if found, content := files(t, once); len(found) != 2 || bytes.Equal(content, want) {
		t.Errorf("two owners have the files %q", found)
	}
	for id, want := range map[string]bool{"id": true, "third": true} {
		if foreign, err := tensorboard.Foreign(filepath.Dir(once), id); foreign != want || err != nil {
			t.Errorf("Foreign of %s: %v, %v", id, foreign, err)
		}
	}
	if foreign, err := tensorboard.Foreign(each, "id"); foreign || err != nil {
		t.Errorf("the only owner: %v, %v", foreign, err)
	}
	if foreign, err := tensorboard.Foreign(filepath.Join(once, "no"), "id"); foreign || err != nil {
		t.Errorf("no folder: %v, %v", foreign, err)
	}
	// A folder that cannot be made is an error, and the next Flush succeeds.
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	l := tensorboard.New(filepath.Join(blocked, "run"), "id", began)
	if err := l.Flush(); err == nil {
		t.Error("Flush into a file succeeds")
	}
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	fill(l, true, losses...)
	check("after an error", filepath.Join(blocked, "run"), want, names...)
}

// TestParameters checks the types of hyper-parameters.
func TestParameters(t *testing.T) {
	dir := t.TempDir()
	l := tensorboard.New(dir, "id", began)
	if err := l.Begin("group", []tensorboard.Parameter{{Name: "lr", Value: 0.5}, {Name: "flip", Value: true}, {Name: "method", Value: "lora"}}); err != nil {
		t.Fatal(err)
	}
	if err := l.Begin("group", []tensorboard.Parameter{{Name: "n", Value: 3}}); err == nil {
		t.Error("Begin takes an int")
	}
	l.End(began.Add(time.Minute))
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	_, content := files(t, dir)
	events := records(t, content)
	plugin := func(event []byte) (tag string, data []byte) {
		value := one(t, one(t, event, 5).bytes, 1).bytes
		p := one(t, one(t, value, 9).bytes, 1).bytes
		if string(one(t, p, 1).bytes) != "hparams" {
			t.Errorf("plug-in %q", one(t, p, 1).bytes)
		}
		return string(one(t, value, 1).bytes), one(t, p, 2).bytes
	}
	tag, data := plugin(events[2])
	start := one(t, data, 3).bytes
	got := map[string]string{}
	for _, f := range decode(t, start) {
		if f.number == 1 {
			v := decode(t, one(t, f.bytes, 2).bytes)[0]
			got[string(one(t, f.bytes, 1).bytes)] = fmt.Sprint(v.number, math.Float64frombits(v.number64), v.number64, string(v.bytes))
		}
	}
	want := map[string]string{"lr": fmt.Sprint(2, 0.5, math.Float64bits(0.5), ""), "flip": fmt.Sprint(4, math.Float64frombits(1), 1, ""), "method": fmt.Sprint(3, 0.0, 0, "lora")}
	if tag != "_hparams_/session_start_info" || fmt.Sprint(got) != fmt.Sprint(want) || string(one(t, start, 4).bytes) != "group" {
		t.Errorf("%s: %v, want %v", tag, got, want)
	}
	tag, data = plugin(events[3])
	end := one(t, data, 4).bytes
	if tag != "_hparams_/session_end_info" || one(t, end, 1).number64 != 1 || math.Float64frombits(one(t, end, 2).number64) != 1700000060.25 {
		t.Errorf("%s: %x", tag, end)
	}
}
