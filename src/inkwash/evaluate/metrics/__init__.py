"""Numbers of sets of features, with their intervals: functions of tensors that know nothing of models, files or pictures."""
