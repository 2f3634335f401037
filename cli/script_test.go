package cli

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/internal/seeded"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"spt": func() { os.Exit(Main(os.Args[1:])) }})
}

func TestScript(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs the paths, links and signals of Unix, which the scripts expect")
	}
	// The checkpoints of other libraries.
	readers, err := filepath.Abs(filepath.Join("..", "checkpoint", "testdata", "readers"))
	if err != nil {
		t.Fatal(err)
	}
	// The containers of training programs.
	containers, err := filepath.Abs(filepath.Join("..", "backbone", "testdata", "containers"))
	if err != nil {
		t.Fatal(err)
	}
	published, err := filepath.Abs(filepath.Join("..", "internal", "fixtures", "testdata", "published"))
	if err != nil {
		t.Fatal(err)
	}
	backbones, err := filepath.Abs(filepath.Join("..", "internal", "fixtures", "testdata", "backbones"))
	if err != nil {
		t.Fatal(err)
	}
	// Folders that PEFT has written.
	adapters, err := filepath.Abs(filepath.Join("..", "delta", "testdata", "peft"))
	if err != nil {
		t.Fatal(err)
	}
	// The same images in archives of several programs.
	archives, err := filepath.Abs(filepath.Join("..", "dataset", "testdata", "archives"))
	if err != nil {
		t.Fatal(err)
	}
	classes, err := filepath.Abs(filepath.Join("testdata", "classes"))
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Setup: func(e *testscript.Env) error {
			e.Setenv("READERS", readers)
			e.Setenv("PUBLISHED", published)
			e.Setenv("BACKBONES", backbones)
			e.Setenv("PEFT", adapters)
			e.Setenv("ARCHIVES", archives)
			e.Setenv("CLASSES", classes)
			e.Setenv("CONTAINERS", containers)
			return nil
		},
		Dir: filepath.Join("testdata", "script"), RequireExplicitExec: true, RequireUniqueNames: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"mkdata": mkdata, "mkhostile": mkhostile, "mkpairs": mkpairs, "mkparquet": mkparquet, "mkcopy": mkcopy, "mktable": mktable, "mkmodel": mkmodel, "mkhub": mkhub, "mkpushhub": mkpushhub, "exits": exits, "interrupt": interrupt, "truncate": truncate, "samepredictions": samePredictions, "sametable": sameTable, "samerows": sameRows, "json": checkJSON, "equaljson": equalJSON,
		},
	})
}

// samerows FIRST SECOND DISTANCE CLASS... checks that the heads of two deltas have the same rows
// for the classes, up to a distance of each value, and that the rows of different classes differ by
// more.
func sameRows(ts *testscript.TestScript, _ bool, args []string) {
	distance, err := strconv.ParseFloat(args[2], 64)
	ts.Check(err)
	rows := func(dir, class string) (values []float32) {
		d, err := delta.Load(ts.MkAbs(dir))
		ts.Check(err)
		at := slices.Index(d.Classes, class)
		if at < 0 {
			ts.Fatalf("the delta of %s has no class %s", dir, class)
		}
		for _, name := range []string{"head.weight", "head.bias"} {
			v := d.Tuned[name].Data
			width := len(v) / len(d.Classes)
			values = append(values, v[at*width:(at+1)*width]...)
		}
		return values
	}
	farthest := func(a, b []float32) (most float64) {
		for i := range a {
			most = max(most, math.Abs(float64(a[i]-b[i])))
		}
		return most
	}
	for i, class := range args[3:] {
		if d := farthest(rows(args[0], class), rows(args[1], class)); d > distance {
			ts.Fatalf("the rows of class %s differ by %g, want at most %g", class, d, distance)
		}
		other := args[3:][(i+1)%len(args[3:])]
		if d := farthest(rows(args[0], class), rows(args[1], other)); d <= distance {
			ts.Fatalf("the rows of classes %s and %s differ by %g only", class, other, d)
		}
	}
}

// mkdata DIR [N] makes an image folder of three classes with N (8) PNG files each.
func mkdata(ts *testscript.TestScript, _ bool, args []string) {
	n := 8
	if len(args) > 1 {
		var err error
		n, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	ts.Check(makeImages(ts.MkAbs(args[0]), n))
}

// mkhostile DIR makes an image folder of broken images. One class and its images have a hostile
// name.
func mkhostile(ts *testscript.TestScript, _ bool, args []string) {
	for _, class := range []string{hostile, "other"} {
		dir := filepath.Join(ts.MkAbs(args[0]), class)
		ts.Check(os.MkdirAll(dir, 0o777))
		for i := range 3 {
			ts.Check(os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s%d.png", class, i)), []byte("broken"), 0o666))
		}
	}
}

// makeImages writes n images of 16 px for each of three classes. The name of a class is the colour
// of its images.
func makeImages(root string, n int) error {
	colours := map[string]color.RGBA{"red": {220, 30, 30, 255}, "green": {30, 220, 30, 255}, "blue": {30, 30, 220, 255}}
	for class, c := range colours {
		dir := filepath.Join(root, class)
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
		for i := range n {
			r := rand.New(rand.NewPCG(uint64(c.R)<<16|uint64(c.G)<<8|uint64(c.B), uint64(i)))
			m := image.NewRGBA(image.Rect(0, 0, 16, 16))
			for p := range m.Pix {
				m.Pix[p] = [4]uint8{c.R, c.G, c.B, 255}[p%4]
				if p%4 != 3 {
					m.Pix[p] += uint8(r.IntN(30))
				}
			}
			var file bytes.Buffer
			if err := png.Encode(&file, m); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%02d.png", i)), file.Bytes(), 0o666); err != nil {
				return err
			}
		}
	}
	return nil
}

// mkpairs DIR N makes N images of 32×16 px, each of two images of mkdata side by side, and tables
// of their labels: list.csv with a delimiter, hot.csv with a column for each label, and
// lists.jsonl. Every seventh image is grey and has no label, and every fifth shows one colour
// twice.
func mkpairs(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.MkdirAll(filepath.Join(dir, "images"), 0o777))
	names := []string{"blue", "green", "red"}
	colours := []color.RGBA{{30, 30, 220, 255}, {30, 220, 30, 255}, {220, 30, 30, 255}}
	list, hot, lists := "path,label\n", "path,blue,green,red\n", ""
	for i := range n {
		first, second := i%3, (i+1+i/3%2)%3
		if i%5 == 4 {
			second = first
		}
		r := rand.New(rand.NewPCG(7, uint64(i)))
		m := image.NewRGBA(image.Rect(0, 0, 32, 16))
		for x := range 32 {
			for y := range 16 {
				c := colours[[]int{first, second}[x/16]]
				if i%7 == 6 {
					c = color.RGBA{128, 128, 128, 255}
				}
				noise := uint8(r.IntN(30))
				m.SetRGBA(x, y, color.RGBA{c.R + noise, c.G + noise, c.B + noise, 255})
			}
		}
		labels := []string{names[first]}
		if second != first {
			labels = append(labels, names[second])
		}
		if i%7 == 6 {
			labels = []string{}
		}
		var file bytes.Buffer
		ts.Check(png.Encode(&file, m))
		name := fmt.Sprintf("images/%02d.png", i)
		ts.Check(os.WriteFile(filepath.Join(dir, name), file.Bytes(), 0o666))
		list += name + "," + strings.Join(labels, "|") + "\n"
		hot += name
		for _, l := range names {
			hot += map[bool]string{true: ",1", false: ",0"}[slices.Contains(labels, l)]
		}
		hot += "\n"
		text, err := json.Marshal(map[string]any{"image": name, "label": labels})
		ts.Check(err)
		lists += string(text) + "\n"
	}
	for name, text := range map[string]string{"list.csv": list, "hot.csv": hot, "lists.jsonl": lists} {
		ts.Check(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666))
	}
}

// mkparquet DIR copies a data set in the layout of the Hugging Face Hub from the tests of package
// dataset: 12 training, 3 validation and 6 test images of 8 px, of cats, dogs and foxes.
func mkparquet(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.CopyFS(ts.MkAbs(args[0]), os.DirFS(filepath.Join("..", "dataset", "testdata", "parquet", "hub"))))
}

// mkcopy FROM DIR copies a folder.
func mkcopy(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.CopyFS(ts.MkAbs(args[1]), os.DirFS(args[0])))
}

// mktable DIR FILE [CLASS=LABEL]... writes a table of the images in the class folders of DIR. FILE
// is in DIR. The label of an image is LABEL if it is given for the class, and the class otherwise.
func mktable(ts *testscript.TestScript, _ bool, args []string) {
	images, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "*", "*.png"))
	ts.Check(err)
	labels := map[string]string{}
	for _, a := range args[2:] {
		class, label, _ := strings.Cut(a, "=")
		labels[class] = label
	}
	text := "image,label\n"
	for _, path := range images {
		class := filepath.Base(filepath.Dir(path))
		text += class + "/" + filepath.Base(path) + "," + cmp.Or(labels[class], class) + "\n"
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o666))
}

// mkmodel FILE [seed=N] [head=N] [without=TENSOR] [width=N] [image=PIXELS] makes a random ViT of
// two blocks, for images of 16 px by default. head=0 makes it without a head.
func mkmodel(ts *testscript.TestScript, _ bool, args []string) {
	option := map[string]string{"seed": "1", "head": "5", "width": "16", "image": "16"}
	for _, a := range args[1:] {
		name, value, _ := strings.Cut(a, "=")
		option[name] = value
	}
	number := func(name string) int {
		n, err := strconv.Atoi(option[name])
		ts.Check(err)
		return n
	}
	ts.Check(makeModel(ts.MkAbs(args[0]), number("seed"), number("head"), number("width"), number("image"), option["without"]))
}

// makeModel writes the model of mkmodel.
func makeModel(path string, seed, head, width, image int, without string) error {
	c := backbone.Config{ImageSize: image, NumClasses: max(head, 1), NumHeads: 2, LayerNormEps: 1e-6,
		Form: backbone.ViT{PatchSize: 8, EmbedDim: width, Depth: 2, HiddenDim: 32}}
	weights := checkpoint.StateDict{}
	for _, p := range c.Params() {
		if p.Name == without || p.Role == backbone.Head && head == 0 {
			continue
		}
		r := seeded.Rand(uint64(seed), p.Name)
		w := checkpoint.NewTensor(p.Shape...)
		for i := range w.Data {
			w.Data[i] = float32(0.2 * r.NormFloat64())
			if p.Norm && strings.HasSuffix(p.Name, "weight") {
				w.Data[i]++
			}
		}
		weights[p.Name] = w
	}
	half := [3]float32{0.5, 0.5, 0.5}
	m := backbone.NewModel(c, backbone.Preprocessing{Mean: half, Std: half, Interpolation: "bicubic", Source: "made for a test"}, weights)
	return m.Save(path, checkpoint.F32, nil)
}

// mkhub REPO COMMIT DIR starts a hub that holds DIR as the branch main of REPO, at a commit of 40
// times the digit COMMIT, and sets HF_ENDPOINT to it. DIR is read at each request.
func mkhub(ts *testscript.TestScript, _ bool, args []string) {
	server := httptest.NewServer(hubOf(args[0], args[1], ts.MkAbs(args[2])))
	ts.Defer(server.Close)
	ts.Setenv("HF_ENDPOINT", server.URL)
}

// hubOf returns the hub of mkhub.
func hubOf(repo, commit, dir string) http.Handler {
	commit = strings.Repeat(commit, 40)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		api := "models/" + repo
		if strings.HasPrefix(repo, "datasets/") {
			api = repo
		}
		if r.URL.Path == "/api/"+api+"/revision/main" {
			type file struct {
				Name string `json:"rfilename"`
			}
			var files []file
			_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
				if err == nil && !e.IsDir() {
					name, _ := filepath.Rel(dir, path)
					files = append(files, file{filepath.ToSlash(name)})
				}
				return err
			})
			_ = json.NewEncoder(w).Encode(map[string]any{"sha": commit, "siblings": files})
			return
		}
		name, ok := strings.CutPrefix(r.URL.Path, "/"+repo+"/resolve/"+commit+"/")
		data, err := os.ReadFile(filepath.Join(dir, name))
		if !ok || err != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("ETag", fmt.Sprintf("%q", fmt.Sprintf("%x", sha256.Sum256(data))))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
}

// exits CODE PROGRAM ARGS... runs a program that must exit with the code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var e *exec.ExitError
		if !errors.As(err, &e) {
			ts.Fatalf("%v", err)
		}
		got = e.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d\nstdout: %s\nstderr: %s", got, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

// interrupt FILE LINES STDERR PROGRAM ARGS... runs a program, sends it SIGINT once FILE has that
// many lines, expects exit code 130 and keeps its standard error in the file STDERR. FILE can be a
// pattern that matches one file.
func interrupt(ts *testscript.TestScript, _ bool, args []string) {
	lines, err := strconv.Atoi(args[1])
	ts.Check(err)
	stderr, err := os.Create(ts.MkAbs(args[2]))
	ts.Check(err)
	defer stderr.Close()
	cmd := exec.Command(args[3], args[4:]...)
	cmd.Dir, cmd.Stderr = ts.MkAbs("."), stderr
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	deadline := time.After(time.Minute)
	for {
		var data []byte
		// the file may not exist yet
		if found, _ := filepath.Glob(ts.MkAbs(args[0])); len(found) == 1 {
			data, _ = os.ReadFile(found[0])
		}
		if strings.Count(string(data), "\n") >= lines {
			break
		}
		select {
		case err := <-ended:
			ts.Fatalf("the program ended before %s had %d lines: %v\n%s", args[0], lines, err, ts.ReadFile(args[2]))
		case <-deadline:
			_ = cmd.Process.Kill()
			ts.Fatalf("%s does not reach %d lines", args[0], lines)
		case <-time.After(time.Millisecond):
		}
	}
	ts.Check(cmd.Process.Signal(os.Interrupt))
	var e *exec.ExitError
	if err := <-ended; !errors.As(err, &e) || e.ExitCode() != exitInterrupted {
		ts.Fatalf("ended with %v, want exit status %d\n%s", err, exitInterrupted, ts.ReadFile(args[2]))
	}
}

// truncate FILE N cuts a file to its first N bytes.
func truncate(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), n))
}

// samePredictions A B compares two outputs of predict --json. Images, classes and their order must
// be the same. Probabilities may differ by 1e-4.
func samePredictions(ts *testscript.TestScript, _ bool, args []string) {
	type line struct {
		Path string
		Top  []struct {
			Class       string
			Probability float64
		}
	}
	read := func(name string) (out []line) {
		for text := range strings.Lines(ts.ReadFile(name)) {
			var l line
			ts.Check(json.Unmarshal([]byte(text), &l))
			out = append(out, l)
		}
		return out
	}
	a, b := read(args[0]), read(args[1])
	if len(a) == 0 || len(a) != len(b) {
		ts.Fatalf("%d and %d predictions", len(a), len(b))
	}
	for i := range a {
		if a[i].Path != b[i].Path || len(a[i].Top) == 0 || len(a[i].Top) != len(b[i].Top) {
			ts.Fatalf("prediction %d: %v and %v", i, a[i], b[i])
		}
		for j, p := range a[i].Top {
			q := b[i].Top[j]
			if p.Class != q.Class || math.Abs(p.Probability-q.Probability) > 1e-4 {
				ts.Fatalf("%s: class %d is %v and %v", a[i].Path, j, p, q)
			}
		}
	}
}

// sametable LINES TABLE compares the output of predict --json with the table of predict --out. The
// table must have the same images in the same order, with equal classes, probabilities and errors.
func sameTable(ts *testscript.TestScript, _ bool, args []string) {
	var want []map[string]any
	for text := range strings.Lines(ts.ReadFile(args[0])) {
		var line struct {
			Path, Error string
			Unknown     bool
			Top         []struct {
				Class       string
				Probability float64
			}
		}
		ts.Check(json.Unmarshal([]byte(text), &line))
		if line.Error == "" && line.Top == nil {
			continue // a file that is left out
		}
		row := map[string]any{"path": line.Path}
		for i, p := range line.Top {
			suffix := ""
			if i > 0 {
				suffix = fmt.Sprint("_", i+1)
			}
			row["label"+suffix], row["probability"+suffix] = p.Class, p.Probability
		}
		if line.Error != "" {
			row["error"] = line.Error
		}
		if line.Unknown {
			row["unknown"] = "true"
		}
		want = append(want, row)
	}
	got := readTable(ts, args[1])
	if len(want) == 0 || len(got) != len(want) {
		ts.Fatalf("%s has %d rows, want %d", args[1], len(got), len(want))
	}
	for i, row := range got {
		if unknown, ok := row["unknown"]; ok && fmt.Sprint(unknown) == "false" {
			delete(row, "unknown") // a line leaves it out
		} else if ok {
			row["unknown"] = fmt.Sprint(unknown)
		}
		if !reflect.DeepEqual(row, want[i]) {
			ts.Fatalf("row %d of %s is %v, want %v", i+1, args[1], row, want[i])
		}
	}
}

// readTable reads a table of predict --out: the values of each row by the names of their columns,
// without missing values. It removes the apostrophes of formulas in CSV.
func readTable(ts *testscript.TestScript, name string) (rows []map[string]any) {
	add := func(row map[string]any) {
		maps.DeleteFunc(row, func(_ string, v any) bool { return v == nil || v == "" })
		rows = append(rows, row)
	}
	text := ts.ReadFile(name)
	switch strings.ToLower(filepath.Ext(name)) {
	case ".csv":
		records, err := csv.NewReader(strings.NewReader(text)).ReadAll()
		ts.Check(err)
		for _, record := range records[1:] {
			row := map[string]any{}
			for i, column := range records[0] {
				row[column] = record[i]
				if strings.HasPrefix(column, "probability") && record[i] != "" {
					row[column], err = strconv.ParseFloat(record[i], 64)
					ts.Check(err)
				} else if regexp.MustCompile(`^'[=+@-]`).MatchString(record[i]) {
					row[column] = record[i][1:]
				}
			}
			add(row)
		}
	case ".jsonl":
		for line := range strings.Lines(text) {
			var row map[string]any
			ts.Check(json.Unmarshal([]byte(line), &row))
			add(row)
		}
	case ".parquet":
		r := parquet.NewReader(strings.NewReader(text))
		for {
			row := map[string]any{}
			err := r.Read(&row)
			if err == io.EOF {
				break
			}
			ts.Check(err)
			add(row)
		}
	}
	return rows
}

// json FILE KEY... checks that FILE holds one JSON document with the keys KEY, such as
// result.test.accuracy; KEY~PATTERN matches the value too.
func checkJSON(ts *testscript.TestScript, _ bool, args []string) {
	decoder := json.NewDecoder(strings.NewReader(ts.ReadFile(args[0])))
	var doc any
	ts.Check(decoder.Decode(&doc))
	if decoder.More() {
		ts.Fatalf("%s holds more than one JSON document", args[0])
	}
	for _, key := range args[1:] {
		key, pattern, match := strings.Cut(key, "~")
		v := doc
		for part := range strings.SplitSeq(key, ".") {
			switch x := v.(type) {
			case map[string]any:
				var ok bool
				if v, ok = x[part]; !ok {
					ts.Fatalf("%s has no %s (at %q)", args[0], key, part)
				}
			case []any:
				i, err := strconv.Atoi(part)
				ts.Check(err)
				if i >= len(x) {
					ts.Fatalf("%s has no %s: %d elements", args[0], key, len(x))
				}
				v = x[i]
			default:
				ts.Fatalf("%s has no %s (at %q)", args[0], key, part)
			}
		}
		if text := fmt.Sprint(v); match && !regexp.MustCompile(pattern).MatchString(text) {
			ts.Fatalf("%s: %s is %s, want %s", args[0], key, text, pattern)
		}
	}
}

// TestHelp checks that the help of every command has a description and an example.
func TestHelp(t *testing.T) {
	for _, c := range commands() {
		if c.HasParent() && (len(c.Long) < 60 || !strings.Contains(c.Example, c.CommandPath())) {
			t.Errorf("%s --help lacks a description or an example", c.CommandPath())
		}
	}
}

// TestTakeRecipe checks that --task sets the image options that no flag sets.
func TestTakeRecipe(t *testing.T) {
	for _, c := range []struct {
		verb, args, want string
	}{
		{"tune", "--task cub", "direct-crop 0 true true"},
		{"tune", "--task cub --resize direct", "direct 0 false true"},
		{"tune", "--task cub --random-crop=false --flip=false --resize-to 240", "direct-crop 240 false false"},
		{"tune", "--task cub --resize crop --random-crop", "crop 0 true true"},
		{"train", "--task oxford_flowers", "direct-crop 0 true true"},
		{"train", "--task oxford_flowers102", "direct 0 false false"},
		{"train", "--task cifar --resize crop --flip", "crop 0 false true"},
		{"train", "--flip", "direct 0 false true"},
		{"score", "--task nabirds", "direct-crop 0 false false"},
		{"eval", "--task nabirds", "direct-crop 0 false false"},
	} {
		cmd := &cobra.Command{Use: c.verb}
		options := (&app{}).newOptions()
		addFlags(cmd, options)
		data := &options.config.Data
		if err := cmd.ParseFlags(strings.Fields(c.args)); err != nil {
			t.Fatal(err)
		}
		if err := takeTask(cmd, data); err != nil {
			t.Fatal(err)
		}
		o := data.Images
		if got := fmt.Sprint(o.Resize, " ", o.ResizeTo, " ", o.RandomCrop, " ", o.HorizontalFlip); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.verb, c.args, got, c.want)
		}
	}
}

// TestExamples runs the programs in the folder examples. Each is spt with one more module,
// objective or architecture, which all its commands must know. spt itself must refuse their deltas.
func TestExamples(t *testing.T) {
	if testing.Short() {
		t.Skip("needs time to build programs: run without -short")
	}
	for _, c := range []struct {
		name, show string     // a text in the output of inspect for the run
		commands   [][]string // before eval, predict and inspect of the run in the folder run
	}{
		{"custommodule", "spt-scale", [][]string{
			{"tune", "--model", "demo", "--data", "data", "--method", "spt-scale", "--rank", "1", "--epochs", "1", "--out", "run"},
		}},
		{"customobjective", "smoothed", [][]string{
			{"tune", "--model", "demo", "--data", "data", "--objective", "smoothed", "--epochs", "1", "--out", "run"},
			{"tune", "--resume", "run"},
			{"score", "--model", "demo", "--data", "data", "--objective", "smoothed"},
			{"train", "--model", "demo", "--data", "data", "--objective", "smoothed", "--method", "lora", "--epochs", "1", "--out", "trained"},
			{"merge", "--delta", "run", "--out", "merged.safetensors"},
		}},
		{"custombackbone", "patch MLP 32", [][]string{
			{"new", "patchmlp.safetensors"},
			{"inspect", "patchmlp.safetensors"},
			{"tune", "--model", "patchmlp.safetensors", "--data", "data", "--budget", "20%", "--epochs", "1", "--out", "run"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			program := filepath.Join(dir, c.name)
			build := exec.Command("go", "build", "-o", program, "../examples/"+c.name)
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Chdir(dir)
			if err := makeImages("data", 8); err != nil {
				t.Fatal(err)
			}
			spt := func(args ...string) (string, error) {
				out, err := exec.Command(program, args...).CombinedOutput()
				return string(out), err
			}
			for _, args := range append(c.commands, []string{"eval", "--delta", "run"}, []string{"predict", "--delta", "run", "data/red"}) {
				if out, err := spt(args...); err != nil {
					t.Fatalf("%v: %v\n%s", args, err, out)
				}
			}
			if out, err := spt("inspect", "run"); err != nil || !strings.Contains(out, c.show) {
				t.Errorf("inspect: %v, want %q in\n%s", err, c.show, out)
			}
			if code := Main([]string{"eval", "--delta", "run", "--quiet"}); code != exitInput {
				t.Errorf("spt itself evaluates the run with exit code %d, want %d", code, exitInput)
			}
			if c.name == "customobjective" {
				out, err := spt("tune", "--resume", "run", "--objective", "single-label")
				if e := (*exec.ExitError)(nil); !errors.As(err, &e) || e.ExitCode() != exitUsage || !strings.Contains(out, "--objective single-label contradicts") {
					t.Errorf("another objective: %v\n%s", err, out)
				}
			}
		})
	}
}

// equaljson FILE FILE PATH... compares fields of two JSON files.
func equalJSON(ts *testscript.TestScript, _ bool, args []string) {
	var values [2]map[string]any
	for i := range values {
		ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[i])), &values[i]))
	}
	for _, field := range args[2:] {
		if a, b := values[0][field], values[1][field]; a == nil || !reflect.DeepEqual(a, b) {
			ts.Fatalf("field %s is %v in %s and %v in %s", field, a, args[0], b, args[1])
		}
	}
}
