"""How good are the maps and scores of any method?"""
