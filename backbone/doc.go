// Package backbone holds the pretrained networks that are tuned: their configurations, weights and
// graphs.
//
// [Load] reads a checkpoint into a [Model]: a [Config], the normalisation of pixels
// ([Preprocessing]) and the weights under canonical names. A Config lists its tensors
// ([Config.Params]) with what tuning may do to each, and builds the graph ([Config.Logits]). The
// graph asks for every tensor and shows every result through [Layers], where tuning enters;
// [Weights] is the Layers of a backbone that is not tuned.
//
// An [Architecture] is a family of backbones, such as the ViT. Its [Form] holds the fields that a
// Config has for it, and builds its graph. Each architecture has a group of files: its form and its
// graph, its namings, and what a checkpoint says of it. [Register] makes another architecture
// known.
package backbone
