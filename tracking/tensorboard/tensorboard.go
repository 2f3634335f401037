// Package tensorboard writes the event files that TensorBoard reads: scalars, images and
// hyper-parameters. Begin with [New], add values to the [Log], and write them with [Log.Flush].
//
// A Log keeps its whole content in memory and makes the file on disk equal to it. If the file holds
// a beginning of the content, as after a flush or after a crash, Flush appends, so that a running
// TensorBoard follows the file. Otherwise Flush writes the content to a file of the next generation
// and empties the earlier one. So the content must be a function of the training: a Log that is
// filled again from the same training repeats no step.
package tensorboard

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image/png"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/regularfile"
)

// Log is the event file of one training. TensorBoard calls the folder of the file a run.
type Log struct {
	dir, id string
	began   time.Time
	content []byte
	// path is the file that holds the first written bytes of content. It is empty if the file must
	// be compared with content first.
	path    string
	written int
}

// New returns a Log in the folder dir, which Flush makes if needed. id identifies the owner of the
// file in its name, see [Foreign]; it must be a valid part of a file name without dots. began is
// the time when the training began, which the file states.
func New(dir, id string, began time.Time) *Log {
	l := &Log{dir: dir, id: id, began: began}
	l.event(began, 0, fileVersion, []byte("brain.Event:2"))
	// A reader of several files forgets the events of the files before this one.
	l.event(began, 0, sessionLog, protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1))
	return l
}

// Scalar is one number of a step. TensorBoard stores numbers in float32.
type Scalar struct {
	Tag   string // name of the chart
	Value float64
}

// Scalars adds the numbers of one step.
func (l *Log) Scalars(at time.Time, step int, scalars ...Scalar) {
	var values [][]byte
	for _, s := range scalars {
		v := text(nil, 1, s.Tag)
		v = protowire.AppendTag(v, 2, protowire.Fixed32Type)
		values = append(values, protowire.AppendFixed32(v, math.Float32bits(float32(s.Value))))
	}
	l.summary(at, step, values...)
}

// PNG adds an encoded PNG image. Data that is no PNG image is an error.
func (l *Log) PNG(at time.Time, step int, tag string, encoded []byte) error {
	config, err := png.DecodeConfig(bytes.NewReader(encoded))
	if err != nil {
		return fmt.Errorf("adding the image %q to an event file: %w", tag, err)
	}
	var image []byte
	for i, n := range []int{config.Height, config.Width, rgb} {
		image = protowire.AppendVarint(protowire.AppendTag(image, protowire.Number(i+1), protowire.VarintType), uint64(n))
	}
	image = message(image, 4, encoded)
	l.summary(at, step, message(text(nil, 1, tag), 4, image))
	return nil
}

// rgb is the number of channels that TensorBoard's field colorspace states for RGB.
const rgb = 3

// Parameter is one hyper-parameter. Value is a float64, a bool or a string.
type Parameter struct {
	Name  string
	Value any
}

// Begin adds the hyper-parameters of the training, for the tab HPARAMS. group is the name of the
// group of trainings that the tab shows as one row. The file describes no experiment, because
// TensorBoard reads one experiment for all trainings. Without one, it finds the hyper-parameters
// and the metrics of all trainings by itself.
func (l *Log) Begin(group string, parameters []Parameter) error {
	start := text(nil, 4, group)
	for _, p := range parameters {
		var value []byte // google.protobuf.Value
		switch v := p.Value.(type) {
		case float64:
			value = double(nil, 2, v)
		case string:
			value = text(nil, 3, v)
		case bool:
			value = protowire.AppendVarint(protowire.AppendTag(nil, 4, protowire.VarintType), protowire.EncodeBool(v))
		default:
			return fmt.Errorf("hyper-parameter %s has the type %T, expected float64, bool or string", p.Name, p.Value)
		}
		start = message(start, 1, message(text(nil, 1, p.Name), 2, value))
	}
	start = double(start, 5, seconds(l.began))
	l.hparams(l.began, "_hparams_/session_start_info", message(nil, 3, start))
	return nil
}

// End adds the time of the end of a training that has succeeded, for the tab HPARAMS.
func (l *Log) End(at time.Time) {
	// STATUS_SUCCESS
	end := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)
	l.hparams(at, "_hparams_/session_end_info", message(nil, 4, double(end, 2, seconds(at))))
}

// hparams adds a summary of the plug-in hparams. data is its HParamsPluginData without the version,
// which is 0.
func (l *Log) hparams(at time.Time, tag string, data []byte) {
	metadata := message(nil, 1, message(text(nil, 1, "hparams"), 2, data))
	l.summary(at, 0, message(text(nil, 1, tag), 9, metadata))
}

// The numbers of the fields of tensorflow.Event that hold its kind of content.
const (
	fileVersion protowire.Number = 3
	summary     protowire.Number = 5
	sessionLog  protowire.Number = 7
)

// summary adds an event with the values of a step, each an encoded tensorflow.Summary.Value.
func (l *Log) summary(at time.Time, step int, values ...[]byte) {
	var content []byte
	for _, v := range values {
		content = message(content, 1, v)
	}
	l.event(at, step, summary, content)
}

// event adds a tensorflow.Event as a record: its length and the checksum of the length, the event
// and its checksum.
func (l *Log) event(at time.Time, step int, kind protowire.Number, content []byte) {
	e := double(nil, 1, seconds(at))
	if step != 0 {
		e = protowire.AppendVarint(protowire.AppendTag(e, 2, protowire.VarintType), uint64(step))
	}
	e = message(e, kind, content)
	head := binary.LittleEndian.AppendUint64(nil, uint64(len(e)))
	l.content = append(l.content, head...)
	l.content = binary.LittleEndian.AppendUint32(l.content, checksum(head))
	l.content = append(l.content, e...)
	l.content = binary.LittleEndian.AppendUint32(l.content, checksum(e))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum returns the masked CRC-32C of the format TFRecord.
func checksum(data []byte) uint32 {
	sum := crc32.Checksum(data, castagnoli)
	return (sum>>15 | sum<<17) + 0xa282ead8
}

// The functions below append one field to an encoded message.

func message(b []byte, number protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), content)
}

func text(b []byte, number protowire.Number, s string) []byte {
	return message(b, number, []byte(strings.ToValidUTF8(s, "\uFFFD")))
}

func double(b []byte, number protowire.Number, v float64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, number, protowire.Fixed64Type), math.Float64bits(v))
}

// seconds returns a time in seconds since 1970, with a resolution of a microsecond.
func seconds(at time.Time) float64 { return float64(at.UnixMicro()) / 1e6 }

// prefix begins the name of every event file. TensorBoard reads files whose name contains
// "tfevents".
const prefix = "events.out.tfevents."

// maxFile limits the size of an event file that is compared, in bytes.
const maxFile = 1 << 30

// Flush writes what the file lacks. After an error, another Flush tries again.
func (l *Log) Flush() error {
	if err := l.flush(); err != nil {
		l.path = ""
		return fmt.Errorf("writing events for TensorBoard: %w", err)
	}
	return nil
}

func (l *Log) flush() error {
	if l.path == "" {
		if err := os.MkdirAll(l.dir, 0o777); err != nil {
			return err
		}
		// TensorBoard reads the files of a folder in the order of their names.
		files, err := filepath.Glob(filepath.Join(escape(l.dir), fmt.Sprintf("%s*.%s.*", prefix, l.id)))
		if err != nil {
			return err
		}
		slices.Sort(files)
		generation := 0
		if n := len(files); n > 0 {
			found, err := regularfile.Read(files[n-1], maxFile)
			switch {
			case err != nil:
				return err
			case bytes.HasPrefix(found, l.content):
				return nil // the file holds more than this Log, as before an interruption
			case bytes.HasPrefix(l.content, found):
				l.path, l.written = files[n-1], len(found)
			}
			// Another name makes the generation 0, and so a name that may exist; it is replaced.
			_, _ = fmt.Sscanf(files[n-1][strings.LastIndexByte(files[n-1], '.'):], ".%d", &generation)
		}
		if l.path == "" {
			path := filepath.Join(l.dir, fmt.Sprintf("%s%010d.%s.%04d", prefix, l.began.Unix(), l.id, generation+1))
			if err := atomicfile.WriteBytes(path, l.content); err != nil {
				return err
			}
			l.path, l.written = path, len(l.content)
		}
		for _, old := range files {
			// A running TensorBoard would stop at a file that is gone.
			if stat, err := os.Stat(old); old != l.path && (err != nil || stat.Size() > 0) {
				if err := os.Truncate(old, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
		}
	}
	if l.written == len(l.content) {
		return nil
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(l.content[l.written:])
	if err = errors.Join(err, f.Close()); err == nil {
		l.written = len(l.content)
	}
	return err
}

// escape returns a path as a pattern of filepath.Glob that matches this path only.
func escape(path string) string {
	if filepath.Separator == '\\' {
		return path // Glob has no escapes on Windows
	}
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// Foreign reports whether the folder dir, or a folder below it, holds event files whose owner is
// not id. A folder that does not exist holds none.
func Foreign(dir, id string) (found bool, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		}
		if name := d.Name(); strings.HasPrefix(name, prefix) && !strings.Contains(name, "."+id+".") {
			found = true
			return filepath.SkipAll
		}
		return nil
	})
	return found, err
}
