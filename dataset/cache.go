package dataset

import "sync"

// defaultCacheBytes is the bound of a cache made with NewCache(0): 7000 images of 224 × 224 pixels.
const defaultCacheBytes = 1 << 30

// Cache keeps resized images in memory, up to a bound. An image that no longer fits is decoded
// again on every pass. The cache never replaces an image: every epoch reads all images once, so a
// replacement would gain nothing.
//
// Loaders of the same images may share a Cache, also with different transforms. It is safe for
// concurrent use. Image files must not change while the cache is in use. A nil *Cache keeps
// nothing.
type Cache struct {
	limit int64 // bytes

	mu     sync.Mutex
	used   int64 // bytes
	images map[cacheKey]*RGB
}

// cacheKey is an image and everything that decides on its pixels after resizing.
type cacheKey struct {
	path  string
	image *RGB
	crop  bool
	size  int // side of the resized image; with crop its shorter side
}

// cacheKey returns the key of a sample that is resized by t.
func (t Transform) cacheKey(s Sample) cacheKey {
	k := cacheKey{path: s.Path, image: s.Image, size: t.Size}
	if t.crops() {
		k.size = t.resizeTo()
	}
	k.crop = t.Resize == "crop"
	return k
}

// entryBytes is about the size of an entry without its pixels and its path, in bytes.
const entryBytes = 200

// NewCache returns a cache that holds at most limit bytes. 0 means 1 GiB. A negative limit means
// that the cache keeps nothing.
func NewCache(limit int64) *Cache {
	if limit == 0 {
		limit = defaultCacheBytes
	}
	return &Cache{limit: limit, images: make(map[cacheKey]*RGB)}
}

// get returns an image, nil if the cache does not hold it.
func (c *Cache) get(k cacheKey) *RGB {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.images[k]
}

// put keeps an image if it fits. Two workers may have decoded the same image; the first one is
// kept.
func (c *Cache) put(k cacheKey, m *RGB) {
	if c == nil {
		return
	}
	size := int64(len(m.Pix) + len(k.path) + entryBytes)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.images[k] != nil || c.used+size > c.limit {
		return
	}
	c.images[k] = m
	c.used += size
}
