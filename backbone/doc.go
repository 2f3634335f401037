// Package backbone holds the pretrained networks that are tuned: their configurations, weights and
// graphs.
//
// [Load] reads a checkpoint into a [Model]: a [Config], the normalisation of pixels
// ([Preprocessing]) and the weights under canonical names. A Config lists its tensors
// ([Config.Params]) with what tuning may do to each, and builds the graph ([Config.Features],
// [Config.Classify]). The graph asks for every tensor and shows every result through [Layers],
// where tuning enters; [Untuned] returns the Layers of a backbone that is not tuned.
//
// An [Architecture] describes a family of backbones, such as the ViT: the struct of its own fields
// in a Config, its namings, and functions that read its checkpoints and build its graph. Each
// built-in architecture has its own group of files. [Register] makes another architecture known.
package backbone
