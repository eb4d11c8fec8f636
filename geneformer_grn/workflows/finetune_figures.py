def write_figures(out, results, *, rows, inputs):
    return None
