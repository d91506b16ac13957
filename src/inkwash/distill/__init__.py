"""Tasks with teachers: a student network learns in fewer evaluations what a trained one does in many."""
