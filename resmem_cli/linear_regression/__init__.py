"""The stylised linear regression of Yang et al. 2023, section 3 and appendices A and B, as an experiment."""
