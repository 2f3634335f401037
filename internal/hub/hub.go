// Package hub downloads pretrained backbones and data sets from the Hugging Face Hub, or from
// another server with the same interface, and uploads models to it. It stores what it downloads in
// the cache that all libraries of Hugging Face share, so that each file is downloaded only once.
//
// [Parse] reads a reference such as hf:google/vit-base-patch16-224. [New] returns a [Client].
// [Client.Fetch] downloads the files that the cache does not have, and returns the path of the
// weights. Package backbone loads them. [ParseDataset] reads a reference to a data set,
// [Client.List] lists its files, and [Client.FetchFiles] downloads some of them.
// [Client.PlanUpload] plans the upload of a folder.
//
// The files of this package are
//
//   - reference.go: references
//   - hub.go: the client, and the choice of the files to download
//   - cache.go: the folders of the cache
//   - request.go: requests to the Hub, and the meaning of its errors
//   - download.go: the download of one file and its verification
//   - dataset.go: references to data sets, and the download of their files
//   - verify.go: the verification of a model in the cache
//   - upload.go: the plan of an upload, and its run
//   - send.go: requests that send data: to the store of the Hub, and for commits
//   - system_unix.go, system_windows.go, system_other.go: the free space of a disk, and how to open
//     special files
//
// A server may be damaged or hostile. Everything that it sends has a limit: the constants in
// hub.go, request.go, download.go, upload.go and send.go.
package hub

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/progress"
)

// Client downloads models. [New] returns one. Several goroutines may use a Client at the same time
// if Progress allows calls at the same time.
type Client struct {
	// Endpoint is the address of the Hub, such as https://huggingface.co. It is required.
	Endpoint string

	// Cache is the path of the folder that contains the folders models--OWNER--NAME. It is
	// required.
	Cache string

	// Token authorises requests. It is sent only to the host of Endpoint. Default: "", no token.
	Token string

	// Offline forbids the use of the network, so that Fetch uses only the cache. Default: false.
	Offline bool

	// Progress receives events of stage progress.Download for each file that is downloaded. Item is
	// the path of the file in the repository. Done and Total are numbers of bytes; Total is 0 while
	// the size is unknown. The last event, with Done equal to Total, reports that the file is
	// complete, verified and in the cache. Default: nil, no events.
	Progress progress.Func

	// backoff is the pause before the first retry. It doubles with each retry. 0 means half a
	// second.
	backoff time.Duration
	// window and least replace the constants of the same names, if they are not 0.
	window time.Duration
	least  int64
	// tls configures connections with TLS. nil means the roots of the system.
	tls *tls.Config
	// uploads reports whether the client uploads, which changes the advice of errors.
	uploads bool
}

const (
	// maxText is the largest size in bytes of a configuration file beside the weights, of an index
	// of shards, and of a description of a repository. Package backbone reads configuration files
	// of the same size.
	maxText = 16 << 20
	// maxShards is the largest number of shards. Package checkpoint reads as many.
	maxShards = 1000
	// maxRedirects is the largest number of redirects of one request.
	maxRedirects = 10
)

// InputError reports that a reference does not name a model that the user can download: the
// repository, the revision or the file does not exist, the user may not read it, or its files are
// not usable. It also reports a wrong HF_ENDPOINT. Every other error of this package means that the
// network, the server, the disk or the cache failed.
type InputError struct{ Err error }

// Error returns the text of the cause.
func (e *InputError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *InputError) Unwrap() error { return e.Err }

// inputErrorf returns an InputError.
func inputErrorf(format string, args ...any) error {
	return &InputError{fmt.Errorf(format, args...)}
}

// Snapshot is a model in the cache.
type Snapshot struct {
	// Path is the path of the file of weights, or of the index if the weights are in shards. The
	// same folder contains the shards, and config.json and preprocessor_config.json if the
	// repository has them.
	Path string

	// Commit is the commit of the files.
	Commit string

	// Note is a message for users if the Hub was not asked whether the revision has a newer commit.
	// It says why. It is "" if the Hub was asked, or if the revision is a commit.
	Note string
}

// New returns a client that is configured by the same environment variables as the libraries of
// Hugging Face:
//
//   - HF_ENDPOINT sets the address of the Hub.
//   - HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME and XDG_CACHE_HOME set the cache (default:
//     ~/.cache/huggingface/hub).
//   - HF_TOKEN or HUGGING_FACE_HUB_TOKEN sets the token. If neither is set, New reads the token
//     from the file HF_TOKEN_PATH (default: HF_HOME/token). If HF_HUB_DISABLE_IMPLICIT_TOKEN is
//     set, there is no token.
//   - HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE forbid the use of the network.
//
// The variables for proxies are those of net/http, such as HTTPS_PROXY.
func New() (*Client, error) {
	home := expand(os.Getenv("HF_HOME"))
	if home == "" {
		base := expand(os.Getenv("XDG_CACHE_HOME"))
		if base == "" {
			base = expand("~/.cache")
		}
		home = filepath.Join(base, "huggingface")
	}
	first := func(values ...string) string {
		for _, v := range values {
			if v = strings.TrimSpace(v); v != "" {
				return v
			}
		}
		return ""
	}
	cache, err := filepath.Abs(first(expand(os.Getenv("HF_HUB_CACHE")), expand(os.Getenv("HUGGINGFACE_HUB_CACHE")), filepath.Join(home, "hub")))
	if err != nil {
		return nil, fmt.Errorf("finding the cache of the Hugging Face Hub: %w; set HF_HOME to the absolute path of a folder", err)
	}
	c := &Client{
		Endpoint: strings.TrimRight(first(os.Getenv("HF_ENDPOINT"), "https://huggingface.co"), "/"),
		Cache:    cache,
		Offline:  isSet("HF_HUB_OFFLINE") || isSet("TRANSFORMERS_OFFLINE"),
	}
	if !isSet("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
		c.Token = first(os.Getenv("HF_TOKEN"), os.Getenv("HUGGING_FACE_HUB_TOKEN"))
		if c.Token == "" {
			// Ignore the error, because most users have no such file. If a token is needed, the Hub
			// reports that it is missing.
			file, _ := os.ReadFile(first(expand(os.Getenv("HF_TOKEN_PATH")), filepath.Join(home, "token")))
			c.Token = strings.TrimSpace(string(file))
		}
	}
	return c, nil
}

// expand replaces ~ and $VARIABLES in a path, as huggingface_hub does.
func expand(p string) string {
	if p == "~" || strings.HasPrefix(p, "~/") {
		if home, err := os.UserHomeDir(); err == nil {
			p = home + p[1:]
		}
	}
	return os.ExpandEnv(p)
}

// isSet reports whether an environment variable has a value that means true: 1, ON, YES or TRUE.
func isSet(variable string) bool {
	return slices.Contains([]string{"1", "ON", "YES", "TRUE"}, strings.ToUpper(os.Getenv(variable)))
}

var (
	// sideFiles are the files that are downloaded together with the weights, from the same folder.
	sideFiles = []string{"config.json", "preprocessor_config.json"}
	// weightFiles are the usual names of weights. The first of them that a repository has is
	// downloaded.
	weightFiles = []string{"model.safetensors", "model.safetensors" + indexSuffix, "pytorch_model.bin", "pytorch_model.bin" + indexSuffix}
)

// indexSuffix is the end of the name of an index of shards.
const indexSuffix = ".index.json"

// presence says whether a repository has a file. It is unknown if the cache has no information
// about the file.
type presence int

const (
	unknown presence = iota
	absent
	present
)

// choose returns the names of the weights and of the files beside them that belong to r. look
// returns what is known about a file. weights is "" if no weights are present. certain is false if
// the choice depends on a file whose presence is unknown.
func choose(r Reference, look func(file string) presence) (weights string, side []string, certain bool) {
	certain = true
	candidates := weightFiles
	if r.File != "" {
		candidates = []string{r.File}
	}
	for _, name := range candidates {
		switch look(name) {
		case present:
			weights = name
		case unknown:
			certain = false
		}
		if weights != "" {
			break
		}
	}
	for _, name := range sideFiles {
		name = path.Join(path.Dir(weights), name)
		switch look(name) {
		case present:
			side = append(side, name)
		case unknown:
			certain = false
		}
	}
	return weights, side, certain
}

// Fetch downloads the files of r that the cache does not have, and returns their place. It
// downloads the weights, all shards if there are several, and the configuration files beside them.
// If the revision is a branch or tag, Fetch asks the Hub for its commit each time. If it cannot
// reach the Hub, and the cache has the last known commit of the revision, Fetch returns that commit
// and sets Note.
//
// If the Hub states another size than a file in the cache has, Fetch downloads this file again.
//
// If ctx ends, Fetch returns an error that wraps ctx.Err(). The next call continues the download
// from the received bytes. An error that the user can correct is an [*InputError].
func (c *Client) Fetch(ctx context.Context, r Reference) (*Snapshot, error) {
	if _, err := Parse(r.String()); err != nil {
		return nil, &InputError{err}
	}
	if r.Revision == "" {
		r.Revision = "main"
	}
	s, err := c.fetch(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", r, err)
	}
	return s, nil
}

// fetch is Fetch for a reference that was checked and has a revision.
func (c *Client) fetch(ctx context.Context, r Reference) (*Snapshot, error) {
	f := c.folder(r.Repo)
	local, certain, err := f.find(r)
	if c.Offline {
		if err != nil {
			return nil, err
		}
		if local == nil {
			return nil, inputErrorf("the model is not completely in the cache %s, and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids the network; fetch the model once without these variables, or set HF_HOME or HF_HUB_CACHE to a cache that has it", c.Cache)
		}
		local.Note = "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, so the cache was used: commit " + local.Commit
		if !certain {
			local.Note += "; the repository may have files that are not in the cache"
		}
		return local, nil
	}
	if IsCommit(r.Revision) && local != nil && certain {
		return local, nil
	}
	info, err := c.info(ctx, r, local == nil)
	if temporary(err) && local != nil {
		local.Note = fmt.Sprintf("the Hub cannot be reached (%v), so the cache was used: commit %s", err, local.Commit)
		return local, nil
	}
	if err != nil {
		return nil, err
	}
	return c.downloadAll(ctx, f, r, info)
}

// downloadAll downloads the files of r that the cache does not have. info lists the files of the
// repository.
func (c *Client) downloadAll(ctx context.Context, f folder, r Reference, info *repoInfo) (*Snapshot, error) {
	look := func(name string) presence {
		if _, ok := info.files[name]; ok {
			return present
		}
		return absent
	}
	weights, side, _ := choose(r, look)
	if weights == "" {
		return nil, missingWeights(r, info.files)
	}
	// small files first
	if err := c.downloadFiles(ctx, f, r.Repo, info, append(side, weights)); err != nil {
		return nil, err
	}
	s := &Snapshot{Path: f.snapshot(info.commit, weights), Commit: info.commit}
	shards, err := shardsOf(s.Path, weights)
	if err != nil {
		return nil, err
	}
	for _, name := range shards {
		if look(name) != present {
			return nil, inputErrorf("%s lists the shard %.200q, which the repository does not have; choose another file or revision", weights, name)
		}
	}
	if err := c.downloadFiles(ctx, f, r.Repo, info, shards); err != nil {
		return nil, err
	}
	// remember comes last, so that the revision in the cache never refers to an incomplete model.
	return s, f.remember(r, info.commit, look)
}

// missingWeights returns the error for a repository without the weights that r names.
func missingWeights(r Reference, files map[string]int64) error {
	if r.File != "" {
		return inputErrorf("the repository has no file %q at this revision; check the part after the colon", r.File)
	}
	var found []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if slices.Contains([]string{".safetensors", ".bin", ".pth", ".pt", ".tar", ".npz"}, path.Ext(name)) {
			found = append(found, fmt.Sprintf("%.200q", name))
		}
	}
	if len(found) == 0 {
		return inputErrorf("the repository has no weights: neither %s nor another file with the extension of weights; choose another repository", strings.Join(weightFiles, ", "))
	}
	if len(found) > 10 {
		found = append(found[:10], "…")
	}
	return inputErrorf("the repository has none of the usual files of weights (%s), but it has %s; name one of these, as in %s", strings.Join(weightFiles, ", "), strings.Join(found, ", "), Reference{r.Repo, r.Revision, "FILE"})
}

// shardsOf returns the names of the shards, if weights is an index. local is the path of weights in
// the cache.
func shardsOf(local, weights string) ([]string, error) {
	if !strings.HasSuffix(weights, indexSuffix) {
		return nil, nil
	}
	data, err := readText(local)
	if err != nil {
		return nil, fmt.Errorf("reading the index of the shards: %w", err)
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, inputErrorf("reading %s, the index of the shards: %s", local, printable(jsonfile.Explain(data, err).Error()))
	}
	names := map[string]bool{}
	for tensor, shard := range index.WeightMap {
		if !validPath(shard) || strings.Contains(shard, "/") {
			return nil, inputErrorf("the index %s places tensor %.200q in %.200q; expected the name of a file beside the index", local, tensor, shard)
		}
		names[path.Join(path.Dir(weights), shard)] = true
	}
	if len(names) == 0 {
		return nil, inputErrorf("%s is not an index of shards: the weight_map is missing or empty", local)
	}
	if len(names) > maxShards {
		return nil, inputErrorf("the index %s names %d shards; expected at most %d", local, len(names), maxShards)
	}
	return slices.Sorted(maps.Keys(names)), nil
}
