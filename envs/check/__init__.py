"""The checker: does a world keep the promises that training relies on?"""
