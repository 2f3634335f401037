package tracking

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/regularfile"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/tracking/mlflow"
)

// server writes a run to an MLflow server. The server says what it has, so that nothing is sent
// twice: after an error, the next send asks again.
type server struct {
	client *mlflow.Client
	run    *mlflow.Run       // what the server has; nil if it must be asked
	known  *mlflow.Run       // what the server had when it last answered; nil if it never did
	files  map[string]string // checksums of the files that the server has
	note   string            // why the server does not take the files
}

func (s *server) String() string { return "MLflow at " + s.client.String() }

// defaultExperiment is the experiment without MLFLOW_EXPERIMENT_NAME.
const defaultExperiment = "spt"

// runTag is the tag with Record.ID.
const runTag = "spt_run"

// send implements sink.
func (s *server) send(ctx context.Context, r *Record) (err error) {
	if s.run == nil {
		if s.run, err = s.open(ctx, r); err != nil {
			return err
		}
		s.known = s.run
	}
	defer func() {
		if err != nil {
			s.run = nil
		}
	}()
	if err := s.log(ctx, r); err != nil {
		return err
	}
	if err := s.update(ctx, r); err != nil {
		return err
	}
	return s.upload(ctx, r)
}

// open returns the run of the server that belongs to r. It is the one in the file mlflow.json, or
// else the one with the tag. If there is none, open makes one.
func (s *server) open(ctx context.Context, r *Record) (*mlflow.Run, error) {
	recorded := readDeliveries(r).on(s.client.String())
	s.files = map[string]string{}
	if recorded != nil {
		found, err := s.client.Get(ctx, recorded.Run)
		if err == nil {
			maps.Copy(s.files, recorded.Files)
			return found, nil
		}
		if !mlflow.Is(err, mlflow.NotFound) {
			return nil, err
		}
	}
	experiment, err := s.client.Experiment(ctx, cmp.Or(os.Getenv("MLFLOW_EXPERIMENT_NAME"), defaultExperiment))
	if err != nil {
		return nil, err
	}
	found, err := s.client.Find(ctx, experiment, runTag, r.ID)
	if err == nil && found == nil {
		found, err = s.client.Create(ctx, experiment, r.Name, r.Config.Started, tags(r))
	}
	if err != nil {
		return nil, err
	}
	s.save(r, found)
	return found, nil
}

// tags returns the tags of the run.
func tags(r *Record) map[string]string {
	folder, err := filepath.Abs(string(r.Folder))
	if err != nil {
		folder = string(r.Folder)
	}
	return map[string]string{runTag: r.ID, "spt_version": r.Config.Spt, "spt_run_folder": folder,
		"spt_model_fingerprint": r.Config.Model.Fingerprint, "spt_data_fingerprint": r.Config.Data.Samples,
		"mlflow.source.name": "spt", "mlflow.source.type": "LOCAL"}
}

// log sends the tags, parameters and metrics that the server lacks.
func (s *server) log(ctx context.Context, r *Record) error {
	b := mlflow.Batch{Params: map[string]string{}, Tags: map[string]string{}, Metrics: s.lacks(s.run, r)}
	for key, value := range tags(r) {
		if s.run.Tags[key] != value && value != "" {
			b.Tags[key] = value
		}
	}
	all := r.Parameters
	if r.Result != nil {
		all = slices.Concat(all, chosenParameters(*r.Result, all))
	}
	for _, p := range all {
		// A parameter cannot change. A path may have: the run keeps the one with which it began.
		if _, has := s.run.Params[p.Name]; !has {
			b.Params[p.Name] = p.Text()
		}
	}
	if err := s.client.Log(ctx, s.run.ID, b); err != nil {
		return err
	}
	maps.Copy(s.run.Params, b.Params)
	maps.Copy(s.run.Tags, b.Tags)
	for _, m := range b.Metrics {
		s.run.Steps[m.Key] = m.Step
	}
	return nil
}

// lacks returns the metrics of r that the run of the server lacks. The metrics of a candidate have
// its name before theirs.
func (s *server) lacks(on *mlflow.Run, r *Record) (metrics []mlflow.Metric) {
	add := func(group string, points []Point) {
		for _, p := range points {
			key := mlflow.Key(group + p.Metric)
			if last, has := on.Steps[key]; !has || last < int64(p.Step) {
				metrics = append(metrics, mlflow.Metric{Key: key, Value: p.Value, At: p.At, Step: int64(p.Step)})
			}
		}
	}
	for i, t := range r.Trainings {
		group := ""
		if t.Name != "" {
			group = t.title() + "/"
		}
		add(group, r.Points(i, 1))
	}
	add("", r.Final())
	return metrics
}

// upload stores the files of a finished run with the run.
func (s *server) upload(ctx context.Context, r *Record) error {
	files, err := r.Files()
	if err != nil {
		return err
	}
	send := func(name, sum string, content io.Reader, size int64) error {
		if s.files[name] == sum || s.note != "" {
			return nil
		}
		switch err := s.client.Upload(ctx, s.run, name, content, size); {
		case errors.Is(err, mlflow.ErrNoUpload):
			s.note = fmt.Sprintf("%s stores no files of a run itself (they belong at %s), so the files of the run were not uploaded; they are in %s", s, s.run.ArtifactURI, r.Folder)
			return nil
		case err != nil:
			return err
		}
		s.files[name] = sum
		s.save(r, s.run)
		return nil
	}
	for _, file := range files {
		if err := sendFile(file, send); err != nil {
			return err
		}
	}
	if r.matrix == nil || r.Result == nil {
		return nil
	}
	sum := sha256.Sum256(r.matrix)
	return send(matrixName+".png", hex.EncodeToString(sum[:]), bytes.NewReader(r.matrix), int64(len(r.matrix)))
}

// sendFile opens a file and passes it with its checksum to send.
func sendFile(file File, send func(name, sum string, content io.Reader, size int64) error) error {
	f, size, err := regularfile.Open(file.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return send(file.Name, hex.EncodeToString(sum.Sum(nil)), f, size)
}

// update sets the status of the run on the server, if it is another.
func (s *server) update(ctx context.Context, r *Record) error {
	status, ended := mlflow.Running, time.Time{}
	switch {
	case r.Result != nil:
		status, ended = mlflow.Finished, r.Result.Finished
	case r.stopped:
		status, ended = mlflow.Killed, time.Now()
	}
	if s.run.Status == status {
		return nil
	}
	if err := s.client.Update(ctx, s.run.ID, status, ended); err != nil {
		return err
	}
	s.run.Status = status
	return nil
}

// missing implements sink.
func (s *server) missing(r *Record) string {
	if s.known == nil { // an earlier process may have sent much
		return fmt.Sprintf("up to %d metrics and the files", len(s.lacks(&mlflow.Run{}, r)))
	}
	text := fmt.Sprintf("%d metrics", len(s.lacks(s.known, r)))
	if r.Result != nil && s.note == "" {
		text += " and the files"
	}
	return text
}

// notes implements sink.
func (s *server) notes() []string {
	if s.note == "" {
		return nil
	}
	return []string{s.note}
}

// deliveries is the content of run.MLflowFile.
type deliveries struct {
	jsonfile.Header
	Deliveries []Delivery `json:"deliveries"`
}

// Delivery is the run of an MLflow server to which a run folder was sent.
type Delivery struct {
	Server     string            `json:"server"`          // URL without user and password
	Experiment string            `json:"experiment_id"`   // ID on the server
	Run        string            `json:"run_id"`          // ID on the server
	Files      map[string]string `json:"files,omitempty"` // SHA-256 of each uploaded file, by name
}

var deliveriesHeader = jsonfile.Header{Kind: jsonfile.MLflow, Version: 1}

// maxDeliveries limits the size of the file, in bytes.
const maxDeliveries = 1 << 20

// ReadDeliveries reads the file mlflow.json of a run folder. A broken file is a [*run.InputError].
func ReadDeliveries(path string) ([]Delivery, error) {
	data, err := regularfile.Read(path, maxDeliveries)
	if err != nil {
		return nil, err
	}
	var d deliveries
	if err := jsonfile.Decode(data, deliveriesHeader, &d); err != nil {
		return nil, &run.InputError{Err: fmt.Errorf("reading %s: %w; remove the file: the run is found again on the servers", path, err)}
	}
	return d.Deliveries, nil
}

// readDeliveries reads the file of a run. A missing or broken file holds no deliveries: the tag on
// the server finds the run again.
func readDeliveries(r *Record) deliveries {
	known, err := ReadDeliveries(r.Folder.Path(run.MLflowFile))
	if err != nil {
		known = nil
	}
	return deliveries{deliveriesHeader, known}
}

// on returns the delivery to a server, or nil if there is none.
func (d deliveries) on(server string) *Delivery {
	for i := range d.Deliveries {
		if d.Deliveries[i].Server == server {
			return &d.Deliveries[i]
		}
	}
	return nil
}

// save records the run of the server in the folder. A folder that cannot be written is no error:
// the tag on the server finds the run again.
func (s *server) save(r *Record, on *mlflow.Run) {
	d := readDeliveries(r)
	own := d.on(s.client.String())
	if own == nil {
		d.Deliveries = append(d.Deliveries, Delivery{})
		own = &d.Deliveries[len(d.Deliveries)-1]
	}
	*own = Delivery{s.client.String(), on.Experiment, on.ID, s.files}
	_ = jsonfile.Write(r.Folder.Path(run.MLflowFile), d)
}
