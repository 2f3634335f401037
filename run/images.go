package run

import "github.com/sptune/spt/dataset"

// ImageOptions say how images are read. Zero values are the defaults.
type ImageOptions struct {
	Resize         string `json:"resize"`          // "direct" (default), "crop" or "direct-crop"; see dataset.Transform
	ResizeTo       int    `json:"resize_to"`       // shorter side, or with "direct-crop" both, before the crop, px; 0: round(size·256/224)
	RandomCrop     bool   `json:"random_crop"`     // while training, not with Resize "direct"
	HorizontalFlip bool   `json:"horizontal_flip"` // while training
	CacheBytes     int64  `json:"cache_bytes"`     // bound on decoded images kept in memory; 0: 1 GiB, negative: none
	Workers        int    `json:"workers"`         // images decoded at once; 0: GOMAXPROCS
}

// TaskImages is the paper's recipe for the images of a known set: VTAB-1k's go
// straight to the model's size without augmentation; FGVC's to 256/224 of it,
// then a crop, while training a random one, and a flip. That is build_transform
// in lib/datasets.py of the reference release. The rest of the recipe is
// train.VTAB for both: of FGVC the release has the images' part only.
//
// Normalisation is none of the recipe's: it belongs to the backbone, which
// expects what it was pretrained with. The reference release normalises with
// ImageNet's mean and standard deviation whatever the backbone; to do as it does,
// give [ModelConfig] these.
func TaskImages(k dataset.Known) ImageOptions {
	if k.FGVC() {
		return ImageOptions{Resize: "direct-crop", RandomCrop: true, HorizontalFlip: true}
	}
	return ImageOptions{Resize: "direct"}
}
