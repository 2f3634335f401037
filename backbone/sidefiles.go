package backbone

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/regularfile"
)

// maxSideFile limits the size of a JSON file beside a checkpoint, in bytes. The largest published
// files list 21,841 classes and have about 2 MB.
const maxSideFile = 16 << 20

// sideFiles holds what the metadata of a checkpoint and the files beside it state about the
// backbone. A field is zero if nothing states it.
type sideFiles struct {
	config        *Config        // from the metadata of spt
	preprocessing *Preprocessing // from the metadata
	card          card           // config.json
	processor     processor      // preprocessor_config.json
	fileName      string         // file name of the checkpoint up to the first dot
	notes         []string       // what is not used, and why
}

// card holds the fields of a config.json of timm or of Hugging Face that describe the backbone. A
// field is zero if the file does not state it or if its value cannot be used.
type card struct {
	path         string         // path of the file
	heads        int            // number of attention heads
	eps          float64        // eps of the layer norms
	pool         string         // timm's global_pool: "token", "avg", "map", …
	architecture string         // timm's name of the model
	modelType    string         // name of the kind of model in Hugging Face's library
	activation   string         // activation of the MLPs: "gelu", "quick_gelu", …
	widths       map[string]int // widths of the model, by the name of the field
	size         [2]int         // height and width of the images, in pixels
	mean, std    *[3]float64    // normalisation of pixels scaled to [0, 1]
	cropPct      float64        // share of the resized side that timm's crop keeps
	cropMode     string         // timm's crop_mode: "center", "squash" or "border"
	filter       string         // timm's interpolation: "bicubic", "bilinear", …
}

// processor holds the fields of Hugging Face's preprocessor_config.json. A nil pointer means that
// the file does not state the field or that its value cannot be used.
type processor struct {
	path                               string // path of the file; empty without a file
	rescale, normalize, resize, center *bool
	factor                             float64 // rescale_factor; 0 if not stated
	mean, std                          *[3]float64
	size, crop                         [2]int  // height and width, in pixels
	shortest                           int     // size.shortest_edge
	cropPct                            float64 // crop_pct of a ConvNeXt's processor
	filter                             string  // name of resample, such as "bicubic"
}

// readSideFiles reads the metadata that spt writes, the config.json of timm or of Hugging Face, and
// Hugging Face's preprocessor_config.json. A file or field that cannot be understood is not used,
// and a note says so.
func readSideFiles(f *checkpoint.File) (s sideFiles, err error) {
	meta := f.Metadata()
	if text, ok := meta[metadataConfig]; ok {
		if v := meta[metadataVersion]; v != "" && v != checkpointVersion {
			return s, fmt.Errorf("reading the metadata of %s: found version %q, expected %q; use the version of spt that wrote the file, or a newer one", f.Name(), v, checkpointVersion)
		}
		s.config = new(Config)
		if err := json.Unmarshal([]byte(text), s.config); err != nil {
			return s, fmt.Errorf("reading the metadata %q of %s: %w", metadataConfig, f.Name(), jsonfile.Explain([]byte(text), err))
		}
	}
	if text, ok := meta[metadataPreprocessing]; ok {
		s.preprocessing = new(Preprocessing)
		if err := json.Unmarshal([]byte(text), s.preprocessing); err != nil {
			return s, fmt.Errorf("reading the metadata %q of %s: %w", metadataPreprocessing, f.Name(), jsonfile.Explain([]byte(text), err))
		}
		return s, nil
	}
	if mean, std := meta["input_mean"], meta["input_std"]; mean != "" || std != "" {
		s.preprocessing = &Preprocessing{Interpolation: "bicubic", Source: "the checkpoint's metadata"}
		m, d := &s.preprocessing.Mean, &s.preprocessing.Std
		if _, err := fmt.Sscanf(mean+" "+std, "%g,%g,%g %g,%g,%g", &m[0], &m[1], &m[2], &d[0], &d[1], &d[2]); err != nil {
			return s, fmt.Errorf("reading the metadata input_mean %q and input_std %q of %s: expected three numbers each, separated by commas", mean, std, f.Name())
		}
	}
	folder := filepath.Dir(f.Name())
	s.fileName, _, _ = strings.Cut(filepath.Base(f.Name()), ".")
	if o, ok := s.open(filepath.Join(folder, "config.json")); ok {
		s.card = readCard(o)
		s.card.path = filepath.Join(folder, o.file)
	}
	if o, ok := s.open(filepath.Join(folder, "preprocessor_config.json")); ok {
		s.processor = readProcessor(o)
		s.processor.path = filepath.Join(folder, o.file)
	}
	return s, nil
}

// name returns timm's name of the model, or else the file name of the checkpoint up to its first
// dot.
func (s *sideFiles) name() string { return cmp.Or(s.card.architecture, s.fileName) }

// note adds a note for the user.
func (s *sideFiles) note(format string, args ...any) {
	s.notes = append(s.notes, fmt.Sprintf(format, args...))
}

// dropCard makes the backbone independent of config.json, and a note gives the reason.
func (s *sideFiles) dropCard(format string, args ...any) {
	s.note("%s is not used: %s", filepath.Base(s.card.path), fmt.Sprintf(format, args...))
	s.card = card{}
}

// readCard reads the fields of a config.json.
func readCard(o object) card {
	c := card{
		heads:        o.count("num_attention_heads", maxWidth),
		eps:          o.number("layer_norm_eps", 0, 1),
		pool:         o.text("global_pool"),
		architecture: o.text("architecture"),
		modelType:    o.text("model_type"),
		activation:   o.text("hidden_act"),
		widths:       map[string]int{},
	}
	arguments, pretrained := o.object("model_args"), o.object("pretrained_cfg")
	c.size = cmp.Or(o.size("image_size"), arguments.size("img_size"), pretrained.size("input_size"), o.size("input_size"))
	if !arguments.isList("num_heads") { // a Swin has a list, which its tensors determine
		c.heads = cmp.Or(c.heads, arguments.count("num_heads", maxWidth))
	}
	for _, key := range []string{"hidden_size", "embed_dim", "num_features"} {
		c.widths[key] = o.count(key, maxWidth)
	}
	if !arguments.isList("embed_dim") {
		c.widths["embed_dim"] = cmp.Or(c.widths["embed_dim"], arguments.count("embed_dim", maxWidth))
	}
	// Older files of timm have the fields of pretrained_cfg at the top level.
	for _, p := range []object{pretrained, o} {
		if c.mean == nil {
			c.mean, c.std = p.normalisation("mean", "std")
		}
		c.cropPct = cmp.Or(c.cropPct, p.number("crop_pct", 0.1, 1))
		c.cropMode = cmp.Or(c.cropMode, p.text("crop_mode"))
		c.filter = cmp.Or(c.filter, p.text("interpolation"))
	}
	return c
}

// resampleNames lists the filters of Pillow in the order of their numbers.
var resampleNames = []string{"nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"}

// readProcessor reads the fields of a preprocessor_config.json.
func readProcessor(o object) processor {
	p := processor{
		rescale: o.boolean("do_rescale"), normalize: o.boolean("do_normalize"), resize: o.boolean("do_resize"), center: o.boolean("do_center_crop"),
		factor: o.number("rescale_factor", 1e-8, 1e4), cropPct: o.number("crop_pct", 0.1, 1),
		crop: o.size("crop_size"),
	}
	p.mean, p.std = o.normalisation("image_mean", "image_std")
	if size, ok := o.fields["size"]; ok && bytes.Contains(size, []byte("shortest_edge")) {
		p.shortest = o.object("size").count("shortest_edge", maxImageSize)
	} else {
		p.size = o.size("size")
		if p.center != nil && *p.center && o.isNumber("size") {
			// In older files, a number means the shorter side if a crop follows.
			p.shortest, p.size = p.size[0], [2]int{}
		}
	}
	if o.isNumber("resample") {
		if n := o.whole("resample", 0, len(resampleNames)-1); n != nil {
			p.filter = resampleNames[*n]
		}
	} else {
		p.filter = o.text("resample")
	}
	return p
}

// object is a JSON object in a side file. Its methods read one field each. They return zero if the
// field is absent or null, and also if its value cannot be used, which they note.
type object struct {
	file   string // name of the file, for notes
	path   string // name of the object in the file with a dot, or empty
	fields map[string]json.RawMessage
	side   *sideFiles
}

// open reads the JSON object in a file. ok is false if there is no such file or if it cannot be
// used, which open notes.
func (s *sideFiles) open(path string) (o object, ok bool) {
	o = object{file: filepath.Base(path), side: s}
	data, err := readSideFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return o, false
	}
	if err == nil {
		if len(bytes.TrimSpace(data)) == 0 {
			err = errors.New("the file is empty")
		} else {
			err = jsonfile.Explain(data, json.Unmarshal(data, &o.fields))
		}
	}
	if err == nil && o.fields == nil {
		err = errors.New("found null, expected an object")
	}
	if err != nil {
		s.note("%s beside the checkpoint is not used: %v", o.file, err)
	}
	return o, err == nil
}

// readSideFile reads a JSON file of at most maxSideFile bytes. It removes a byte order mark, and
// quotes the numbers of Python that JSON does not have.
func readSideFile(path string) ([]byte, error) {
	data, err := regularfile.Read(path, maxSideFile)
	return quoteNaN(bytes.TrimPrefix(data, []byte("\ufeff"))), err
}

// quoteNaN puts the words NaN, Infinity and -Infinity, which Python writes as numbers, into quotes.
// JSON has no such numbers, and the other fields of the file remain readable.
func quoteNaN(data []byte) []byte {
	if !bytes.Contains(data, []byte("NaN")) && !bytes.Contains(data, []byte("Infinity")) {
		return data
	}
	out := make([]byte, 0, len(data)+64)
	quoted := false
	for i := 0; i < len(data); {
		n := 1
		switch c := data[i]; {
		case quoted && c == '\\':
			n = min(2, len(data)-i)
		case c == '"':
			quoted = !quoted
		case !quoted:
			for _, word := range []string{"NaN", "Infinity", "-Infinity"} {
				if bytes.HasPrefix(data[i:], []byte(word)) {
					out = append(append(append(out, '"'), word...), '"')
					i, n = i+len(word), 0
					break
				}
			}
		}
		out = append(out, data[i:i+n]...)
		i += n
	}
	return out
}

// value decodes a field into v. It returns false if the field is absent, null, or not of v's type.
func (o object) value(key string, v any, expected string) bool {
	raw, ok := o.fields[key]
	if !ok || string(raw) == "null" {
		return false
	}
	if json.Unmarshal(raw, v) != nil {
		o.refuse(key, expected)
		return false
	}
	return true
}

// refuse notes that a field is not used because its value is not the expected one.
func (o object) refuse(key, expected string) {
	var compact bytes.Buffer
	found := o.fields[key]
	if json.Compact(&compact, found) == nil {
		found = compact.Bytes()
	}
	text := string(found)
	if runes := []rune(text); len(runes) > 60 {
		text = string(runes[:60]) + "…"
	}
	o.side.note("%s: the field %q is not used: found %s, expected %s", o.file, o.path+key, text, expected)
}

// isList and isNumber report the kind of the value of a field.
func (o object) isList(key string) bool { return bytes.HasPrefix(o.fields[key], []byte("[")) }
func (o object) isNumber(key string) bool {
	raw := o.fields[key]
	return len(raw) > 0 && (raw[0] == '-' || '0' <= raw[0] && raw[0] <= '9')
}

// object returns an object in o. Its fields are empty if there is no such object.
func (o object) object(key string) object {
	in := object{file: o.file, path: o.path + key + ".", side: o.side}
	o.value(key, &in.fields, "an object")
	return in
}

// text returns a string.
func (o object) text(key string) (v string) {
	o.value(key, &v, "a string")
	return v
}

// boolean returns a Boolean value, or nil.
func (o object) boolean(key string) *bool {
	v := new(bool)
	if !o.value(key, v, "true or false") {
		return nil
	}
	return v
}

// number returns a number above low and at most high.
func (o object) number(key string, low, high float64) (v float64) {
	expected := fmt.Sprintf("a number above %g and at most %g", low, high)
	if o.value(key, &v, expected) && !(v > low && v <= high) {
		o.refuse(key, expected)
		return 0
	}
	return v
}

// whole returns a whole number from low to high, or nil.
func (o object) whole(key string, low, high int) *int {
	expected := fmt.Sprintf("a whole number from %d to %d", low, high)
	var v float64
	if !o.value(key, &v, expected) {
		return nil
	}
	if v != math.Trunc(v) || v < float64(low) || v > float64(high) {
		o.refuse(key, expected)
		return nil
	}
	n := int(v)
	return &n
}

// count returns a whole number from 1 to high, or 0.
func (o object) count(key string, high int) int {
	if n := o.whole(key, 1, high); n != nil {
		return *n
	}
	return 0
}

// size returns the height and the width of images, in pixels. The field holds one number for both,
// a list [height, width] or [channels, height, width], or an object with height and width.
func (o object) size(key string) (size [2]int) {
	expected := fmt.Sprintf("the height and the width of images, from 1 to %d pixels", maxImageSize)
	var raw json.RawMessage
	if !o.value(key, &raw, expected) {
		return size
	}
	list := numbers(raw)
	var sides struct{ Height, Width float64 }
	switch {
	case len(list) == 1:
		list = []float64{list[0], list[0]}
	case len(list) == 3:
		list = list[1:]
	case json.Unmarshal(raw, &sides) == nil:
		list = []float64{sides.Height, sides.Width}
	}
	if len(list) != 2 || slices.ContainsFunc(list, func(n float64) bool { return n != math.Trunc(n) || n < 1 || n > maxImageSize }) {
		o.refuse(key, expected)
		return size
	}
	return [2]int{int(list[0]), int(list[1])}
}

// numbers returns the numbers of a JSON list, or a single number. It returns nil for other values.
func numbers(raw json.RawMessage) (list []float64) {
	var one float64
	if json.Unmarshal(raw, &one) == nil {
		return []float64{one}
	}
	var all []*float64 // an element null is nil
	if json.Unmarshal(raw, &all) != nil {
		return nil
	}
	for _, v := range all {
		if v == nil {
			return nil
		}
		list = append(list, *v)
	}
	return list
}

// channels returns one number for each channel. The field holds a list of three numbers, or one
// number for all channels. The numbers must be above low and at most 1e6.
func (o object) channels(key string, low float64) *[3]float64 {
	expected := "a number or a list of three numbers, each of at most 1e6"
	if low > 0 {
		expected = "a number or a list of three numbers, each above 0 and at most 1e6"
	}
	var raw json.RawMessage
	if !o.value(key, &raw, expected) {
		return nil
	}
	list := numbers(raw)
	if len(list) == 1 {
		list = []float64{list[0], list[0], list[0]}
	}
	if len(list) != 3 || slices.ContainsFunc(list, func(v float64) bool { return !(v > low && v <= 1e6) }) {
		o.refuse(key, expected)
		return nil
	}
	return (*[3]float64)(list)
}

// normalisation returns the mean and the standard deviation of the pixels. Both are nil unless both
// can be used.
func (o object) normalisation(mean, std string) (m, s *[3]float64) {
	m, s = o.channels(mean, -1e6), o.channels(std, 1e-9)
	switch {
	case m == nil && s != nil:
		o.side.note("%s: the field %q is not used: there is no usable %q", o.file, o.path+std, mean)
	case m != nil && s == nil:
		o.side.note("%s: the field %q is not used: there is no usable %q", o.file, o.path+mean, std)
	}
	if m == nil || s == nil {
		return nil, nil
	}
	return m, s
}

// modelTypes lists, by architecture, the values of model_type in Hugging Face's files whose models
// have this architecture. timm_wrapper stands for any model of timm.
var modelTypes = map[string][]string{
	"vit":      {"vit", "vit_mae", "vit_msn", "deit", "dinov2", "dinov2_with_registers", "ijepa", "timm_wrapper"},
	"swin":     {"swin", "timm_wrapper"},
	"convnext": {"convnext", "convnextv2", "timm_wrapper"},
}

// holdCard compares config.json with the tensors. widths lists the widths of the model that a
// config.json may state. The file is not used if it describes another model.
func (s *Source) holdCard(widths map[string]int) {
	c := &s.side.card
	types := modelTypes[s.naming.Architecture]
	if c.modelType != "" && types != nil && !slices.Contains(types, c.modelType) {
		s.side.dropCard("it describes another kind of model: \"model_type\" is %q, expected one of %s", c.modelType, strings.Join(types, ", "))
		return
	}
	for _, key := range []string{"hidden_size", "embed_dim", "num_features"} {
		if got := c.widths[key]; got != 0 && widths[key] != 0 && got != widths[key] {
			s.side.dropCard("it describes another model: %q is %d, but the tensors have %d", key, got, widths[key])
			return
		}
	}
}

// holdSize returns the side length of the images, in pixels, that the checkpoint or config.json
// states, if valid accepts it. Otherwise it returns 0, and a note gives the reason.
func (s *Source) holdSize(valid func(size int) error) int {
	size := s.ImageSize(0)
	if s.Config != nil {
		return size
	}
	if c := s.side.card; c.size[0] != c.size[1] {
		s.side.note("config.json: the image size of %d × %d px is not used: only square images are supported", c.size[0], c.size[1])
	}
	if size == 0 {
		return 0
	}
	if err := valid(size); err != nil {
		s.side.note("config.json: the image size of %d px is not used: %v", size, err)
		return 0
	}
	return size
}

// activation returns the activation of the MLPs that config.json states, such as "gelu". timm
// states QuickGELU only in the name of the model.
func (s *sideFiles) activation() string {
	if strings.Contains(s.name(), "quickgelu") {
		return "quick_gelu"
	}
	return s.card.activation
}

// preprocessing returns the normalisation of pixels in pretraining. It comes from the metadata,
// from a file beside the checkpoint, or from the architecture, in this order.
func (a Architecture[F]) preprocessing(f *checkpoint.File, side sideFiles) Preprocessing {
	if side.preprocessing != nil {
		return *side.preprocessing
	}
	if c := side.card; c.mean != nil {
		return Preprocessing{Mean: float32s(c.mean, 1), Std: float32s(c.std, 1), Interpolation: "bicubic", Source: c.path}
	}
	p := imageNet
	if a.Preprocessing != nil {
		p = a.Preprocessing(filepath.Base(f.Name()))
	} else {
		p.Source = "assumed: nothing in or beside the checkpoint states it; ImageNet mean and std, as in all published backbones of the family " + a.Name
	}
	return side.processor.apply(p)
}

// apply returns the normalisation of Hugging Face's image processors. They multiply bytes by
// rescale_factor, subtract image_mean and divide by image_std. The result expresses this as a mean
// and a standard deviation for pixels scaled to [0, 1]. A mean that the file does not state is the
// mean of p.
func (r processor) apply(p Preprocessing) Preprocessing {
	off := func(do *bool) bool { return do != nil && !*do }
	factor := cmp.Or(r.factor, 1.0/255)
	if off(r.rescale) {
		factor = 1
	}
	var how []string
	mean, std := r.mean, r.std
	switch {
	case off(r.normalize):
		mean, std = &[3]float64{}, &[3]float64{1, 1, 1}
		how = append(how, "do_normalize false")
	case mean == nil && factor == 1.0/255:
		return p // the file states nothing
	case mean == nil:
		mean, std = new([3]float64), new([3]float64)
		for i := range 3 {
			mean[i], std[i] = float64(p.Mean[i]), float64(p.Std[i])
		}
		how = append(how, "mean and std "+p.Source)
	}
	if off(r.rescale) {
		how = append(how, "do_rescale false")
	} else if math.Abs(factor*255-1) > 1e-6 {
		how = append(how, fmt.Sprintf("rescale_factor %.6g", factor))
	}
	out := Preprocessing{Mean: float32s(mean, 255*factor), Std: float32s(std, 255*factor), Interpolation: "bicubic", Source: r.path}
	if len(how) > 0 {
		out.Source += ": " + strings.Join(how, ", ")
	}
	return out
}

// float32s returns v divided by scale.
func float32s(v *[3]float64, scale float64) (out [3]float32) {
	for i := range v {
		out[i] = float32(v[i] / scale)
	}
	return out
}

// resizing returns how images became squares in pretraining, for images of size pixels. It returns
// nil if no file beside the checkpoint describes it.
func (s *sideFiles) resizing(size int) *Resizing {
	if c := s.card; c.cropPct != 0 || c.cropMode != "" || c.filter != "" {
		return c.resizing(size)
	}
	if s.processor.path == "" {
		return nil
	}
	r, unused := s.processor.resizing(size)
	if unused != "" {
		s.note("%s: %s", filepath.Base(s.processor.path), unused)
	}
	return r
}

// resizing returns the transform of timm's evaluation (transforms_imagenet_eval in its
// timm/data/transforms_factory.py).
func (c card) resizing(size int) *Resizing {
	share, mode := cmp.Or(c.cropPct, 0.875), cmp.Or(c.cropMode, "center")
	r := &Resizing{Filter: c.filter, Source: fmt.Sprintf("%s: crop_pct %g, crop_mode %s", c.path, share, mode), ResizeTo: int(float64(size) / share)}
	switch {
	case mode == "center":
		r.Resize = "crop"
	case mode == "squash" && r.ResizeTo > size:
		r.Resize = "direct-crop"
	case mode == "squash":
		r.Resize, r.ResizeTo = "direct", 0
	}
	return r
}

// resizing returns the transform of Hugging Face's image processors. unused says what of it this
// library cannot do; it is empty otherwise. If the image size is not the size in the file, the size
// before the crop changes in proportion.
func (p processor) resizing(size int) (r *Resizing, unused string) {
	if p.resize != nil && !*p.resize {
		return nil, fmt.Sprintf("\"do_resize\" is false, but images of another size than %d × %d px are resized", size, size)
	}
	crop := p.center != nil && *p.center
	scaled := func(before, after int) int { return int(math.Round(float64(before) * float64(size) / float64(after))) }
	r = &Resizing{Filter: p.filter}
	switch {
	case p.shortest != 0 && p.cropPct != 0: // ConvNextImageProcessor
		r.Source = fmt.Sprintf("%s: shortest_edge %d, crop_pct %g", p.path, p.shortest, p.cropPct)
		if r.Resize = "direct"; p.shortest < 384 {
			r.Resize, r.ResizeTo = "crop", scaled(int(float64(p.shortest)/p.cropPct), p.shortest)
		}
	case p.shortest != 0 && crop && p.crop[0] != 0:
		r.Source = fmt.Sprintf("%s: shortest_edge %d, crop_size %d × %d", p.path, p.shortest, p.crop[0], p.crop[1])
		if p.crop[0] == p.crop[1] && p.crop[0] <= p.shortest {
			r.Resize, r.ResizeTo = "crop", scaled(p.shortest, p.crop[0])
		}
	case p.shortest != 0:
		r.Source = fmt.Sprintf("%s: shortest_edge %d without a crop", p.path, p.shortest)
	case p.size[0] != 0 && crop && p.crop[0] != 0 && p.crop != p.size:
		r.Source = fmt.Sprintf("%s: size %d × %d, crop_size %d × %d", p.path, p.size[0], p.size[1], p.crop[0], p.crop[1])
		if p.size[0] == p.size[1] && p.crop[0] == p.crop[1] && p.crop[0] <= p.size[0] {
			r.Resize, r.ResizeTo = "direct-crop", scaled(p.size[0], p.crop[0])
		}
	case p.size[0] != 0:
		r.Source = fmt.Sprintf("%s: size %d × %d", p.path, p.size[0], p.size[1])
		if p.size[0] == p.size[1] {
			r.Resize = "direct"
			if p.size[0] != size {
				unused = fmt.Sprintf("the size of %d × %d px is not used: the images of the backbone have %d × %d px", p.size[0], p.size[1], size, size)
			}
		}
	default:
		return nil, ""
	}
	return r, unused
}
