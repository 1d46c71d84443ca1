from .bind import bind as bind
from .capture import capture as capture
from .maps import representation_map as representation_map
from .neighbours import neighbour_overlap as neighbour_overlap
from .neighbours import neighbours as neighbours
from .similarity import cka as cka
from .similarity import cosine as cosine
