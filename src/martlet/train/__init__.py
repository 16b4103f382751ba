"""From rows to an adapter: data formats, the doctor, training runs and their proof."""
