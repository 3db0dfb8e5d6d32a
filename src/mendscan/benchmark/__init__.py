"""How does the method compare with simpler ones, given the same scans and the same time?"""
