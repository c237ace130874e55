"""What judges the workbook: the backends' contract, exactness, benches, the weights' card."""
