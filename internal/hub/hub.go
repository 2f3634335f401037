// Package hub fetches pretrained backbones from the Hugging Face Hub, or from another server with
// the same interface, into the cache that all libraries of Hugging Face share. A file that one of
// these libraries has fetched is found by the others.
//
// [Parse] reads a reference such as hf:google/vit-base-patch16-224. [Client.Fetch] fetches the
// files of the reference and returns the path of the weights, which package backbone loads.
//
// The files of this package: reference.go defines what a reference may be; cache.go where files
// lie; request.go how the Hub is asked and what its errors mean; download.go how a file is
// downloaded and verified; hub.go which files are needed.
package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sptune/spt/progress"
)

// Client fetches models. [New] returns one. Several goroutines may use a Client at once if they may
// call Progress at once.
type Client struct {
	// Endpoint is the address of the Hub, such as https://huggingface.co. It must be set.
	Endpoint string

	// Cache is the folder that holds the folders models--OWNER--NAME. It must be set.
	Cache string

	// Token is sent to the host of Endpoint only. Default "": no token.
	Token string

	// Offline is true if the network must not be used. Default false.
	Offline bool

	// Progress receives events of stage progress.Download for every file that is downloaded. Item
	// is the path of the file in the repository. Total is 0 while the size is unknown. Done equals
	// Total once, when the file is complete, verified and in its place. Default nil: no events.
	Progress progress.Func

	backoff time.Duration // pause before the first repetition, which doubles; 0: half a second
	stall   time.Duration // time without a byte after which an attempt ends; 0: a minute
}

// Snapshot is a model in the cache.
type Snapshot struct {
	// Path is the weights file or the index of its shards. The shards lie beside it, and so do
	// config.json and preprocessor_config.json if the repository has them.
	Path string

	// Commit is the commit that the files belong to.
	Commit string

	// Note says why the cache was used without asking the Hub whether the revision has moved. It is
	// "" if the Hub was asked, or if the revision cannot move.
	Note string
}

// New returns a client that is configured by the environment variables of Hugging Face's libraries:
//
//   - HF_ENDPOINT sets the address of the Hub.
//   - HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME and XDG_CACHE_HOME set the cache, by default
//     ~/.cache/huggingface/hub.
//   - HF_TOKEN, HUGGING_FACE_HUB_TOKEN or the file HF_TOKEN_PATH (by default HF_HOME/token) set the
//     token, unless HF_HUB_DISABLE_IMPLICIT_TOKEN is set.
//   - HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE forbid the network.
//
// Proxies are those of net/http.
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
		return nil, fmt.Errorf("finding the cache of the Hugging Face Hub: %w; set HF_HOME to a folder", err)
	}
	c := &Client{
		Endpoint: strings.TrimRight(first(os.Getenv("HF_ENDPOINT"), "https://huggingface.co"), "/"),
		Cache:    cache,
		Offline:  isSet("HF_HUB_OFFLINE") || isSet("TRANSFORMERS_OFFLINE"),
	}
	if !isSet("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
		c.Token = first(os.Getenv("HF_TOKEN"), os.Getenv("HUGGING_FACE_HUB_TOKEN"))
		if c.Token == "" {
			// Most users have no such file. If it cannot be read, the Hub reports the missing token
			// where one is needed.
			file, _ := os.ReadFile(first(expand(os.Getenv("HF_TOKEN_PATH")), filepath.Join(home, "token")))
			c.Token = strings.TrimSpace(string(file))
		}
	}
	return c, nil
}

// expand replaces ~ and $VARIABLES, as huggingface_hub does.
func expand(p string) string {
	if p == "~" || strings.HasPrefix(p, "~/") {
		if home, err := os.UserHomeDir(); err == nil {
			p = home + p[1:]
		}
	}
	return os.ExpandEnv(p)
}

// isSet reports whether an environment variable has a value that means true.
func isSet(variable string) bool {
	return slices.Contains([]string{"1", "ON", "YES", "TRUE"}, strings.ToUpper(os.Getenv(variable)))
}

var (
	// sideFiles are fetched besides the weights, from the folder of the weights.
	sideFiles = []string{"config.json", "preprocessor_config.json"}
	// weightFiles are the usual names of weights. The first one that a repository has is fetched.
	weightFiles = []string{"model.safetensors", "model.safetensors" + indexSuffix, "pytorch_model.bin", "pytorch_model.bin" + indexSuffix}
)

// indexSuffix ends the name of an index of shards.
const indexSuffix = ".index.json"

// presence is what is known about a file of a repository. A cache need not hold every file of a
// repository.
type presence int

const (
	unknown presence = iota
	absent
	present
)

// choose returns the names of the weights and of the files beside them. weights is "" if none are
// found. certain is false if the complete repository might lead to another choice.
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

// Fetch downloads the files of r that the cache lacks, and returns where they lie. If the revision
// is not a commit, Fetch asks the Hub for its commit every time. If the Hub cannot be reached and
// the cache holds the last known commit of the revision, Fetch uses that one and says so in Note. A
// download that was interrupted continues.
func (c *Client) Fetch(ctx context.Context, r Reference) (*Snapshot, error) {
	if _, err := Parse(r.String()); err != nil {
		return nil, err
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

func (c *Client) fetch(ctx context.Context, r Reference) (*Snapshot, error) {
	f := c.folder(r.Repo)
	local, certain, err := f.find(r)
	if c.Offline {
		if err != nil {
			return nil, err
		}
		if local == nil {
			return nil, fmt.Errorf("it is not completely in the cache %s, and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids the network; fetch it once without these variables, or set HF_HOME or HF_HUB_CACHE to the cache that has it", c.Cache)
		}
		local.Note = "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, so the cache was used: commit " + local.Commit
		if !certain {
			local.Note += "; the repository may have files that the cache lacks"
		}
		return local, nil
	}
	if IsCommit(r.Revision) && local != nil && certain {
		return local, nil
	}
	info, err := c.info(ctx, r, local == nil)
	var out *unreachable
	if errors.As(err, &out) && local != nil {
		local.Note = fmt.Sprintf("the Hub cannot be reached (%v), so the cache was used: commit %s", out, local.Commit)
		return local, nil
	}
	if err != nil {
		return nil, err
	}
	return c.bring(ctx, f, r, info)
}

// bring downloads the files of r that the cache lacks. info lists the files of the repository.
func (c *Client) bring(ctx context.Context, f folder, r Reference, info *repoInfo) (*Snapshot, error) {
	look := func(name string) presence {
		if slices.Contains(info.files, name) {
			return present
		}
		return absent
	}
	weights, side, _ := choose(r, look)
	if weights == "" {
		return nil, missingWeights(r, info.files)
	}
	files := append(side, weights) // small files first
	for _, name := range files {
		if err := c.download(ctx, f, r.Repo, info.commit, name); err != nil {
			return nil, err
		}
	}
	s := &Snapshot{Path: f.snapshot(info.commit, weights), Commit: info.commit}
	shards, err := shardsOf(s.Path, weights)
	if err != nil {
		return nil, err
	}
	for _, name := range shards {
		if look(name) != present {
			return nil, fmt.Errorf("%s lists the shard %q, which the repository does not have", weights, name)
		}
		if err := c.download(ctx, f, r.Repo, info.commit, name); err != nil {
			return nil, err
		}
	}
	// Last, so that the revision never points to an incomplete model.
	return s, f.remember(r, info.commit, look)
}

// missingWeights returns the error for a repository without the weights that r names.
func missingWeights(r Reference, files []string) error {
	if r.File != "" {
		return fmt.Errorf("the repository has no file %q at this revision", r.File)
	}
	var found []string
	for _, name := range files {
		if slices.Contains([]string{".safetensors", ".bin", ".pth", ".pt", ".tar", ".npz"}, path.Ext(name)) {
			found = append(found, fmt.Sprintf("%q", name))
		}
	}
	if len(found) == 0 {
		return fmt.Errorf("the repository has no weights: neither %s nor another file of weights", strings.Join(weightFiles, ", "))
	}
	if len(found) > 10 {
		found = append(found[:10], "…")
	}
	return fmt.Errorf("the repository has none of %s; it has %s: name one of them, as in %s", strings.Join(weightFiles, ", "), strings.Join(found, ", "), Reference{r.Repo, r.Revision, "FILE"})
}

// shardsOf returns the shards that weights, if it is an index, lists.
func shardsOf(local, weights string) ([]string, error) {
	if !strings.HasSuffix(weights, indexSuffix) {
		return nil, nil
	}
	data, err := os.ReadFile(local)
	if err != nil {
		return nil, fmt.Errorf("reading the index of the shards: %w", err)
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("reading %s, the index of the shards: %w", local, err)
	}
	names := map[string]bool{}
	for tensor, shard := range index.WeightMap {
		if !validPath(shard) || strings.Contains(shard, "/") {
			return nil, fmt.Errorf("%s puts tensor %q into %q, expected the name of a file beside it", local, tensor, shard)
		}
		names[path.Join(path.Dir(weights), shard)] = true
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s is not an index of shards: its weight_map is missing or empty", local)
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// client returns an HTTP client that follows redirects. It does not send the token to other hosts.
// If follow is false, it does not follow a redirect that has the checksum of the file.
func (c *Client) client(follow bool) *http.Client {
	return &http.Client{CheckRedirect: func(next *http.Request, before []*http.Request) error {
		if next.Response != nil && !follow && next.Response.Header.Get("X-Linked-Etag") != "" {
			return http.ErrUseLastResponse
		}
		if len(before) >= 10 {
			return errors.New("more than 10 redirects")
		}
		// net/http keeps the token for subdomains, such as those of the Hub's stores. Their
		// addresses are signed, and they refuse a token.
		if next.URL.Host != before[0].URL.Host || next.URL.Scheme != before[0].URL.Scheme {
			next.Header.Del("Authorization")
		}
		return nil
	}}
}
